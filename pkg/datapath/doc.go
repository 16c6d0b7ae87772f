// SPDX-License-Identifier: Apache-2.0

// Package datapath owns what the kernel holds: it loads the programs, attaches them to interfaces,
// pins links and maps, and reads and writes those maps. The kernel is the database; there is no
// daemon. It is the only package that imports cilium/ebpf and netlink.
//
// It must not know how anything is typed or shown: units, tables and exit codes belong to others.
package datapath
