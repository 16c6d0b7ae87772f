// SPDX-License-Identifier: Apache-2.0

package datapath

//go:generate go tool bpf2go -tags !otherabi -target bpfel -type abi -type policy -type policy_text -type bucket -type limit_state -type service -type port_table -type service_flag -type limit_flag -type limit_per -type verdict -type interface_flag -type quic_key_word -type feature -type listen -type limit -type addr -type hash_key -type reason -type action -type mode -type on_table_full -type scope -type limit_kind -type list_id -type source_flag -type feed_words -type feed_state -type conn_size -type conn_runner -type conn_line -type proof_size -type ban_size -type ban_scope -type ban_term -type ban -type ban_key -type strike_key -type striker -type ban_tally limiter ../../bpf/limiter.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -target bpfel -type carry -type carry_pair -type carry_word -type carry_order carry ../../bpf/carry.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu
//go:generate go tool bpf2go -tags !otherabi -target bpfel -no-global-types conns ../../bpf/conns.bpf.c -- -Wall -Wextra -Wno-unused-parameter -Werror -mcpu=v3 -D__TARGET_ARCH_x86 -I/usr/include/x86_64-linux-gnu
//go:generate ../../scripts/other-abi.sh
