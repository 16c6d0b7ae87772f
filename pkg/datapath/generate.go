// SPDX-License-Identifier: Apache-2.0

package datapath

//go:generate go tool bpf2go -target bpfel -type abi -type limit -type addr -type hash_key -type reason -type action -type mode -type on_table_full -type scope -type limit_kind -type list_id -type source_flag limiter ../../bpf/limiter.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu
