// SPDX-License-Identifier: Apache-2.0

// Command synward attaches a connection limiter to network interfaces, changes its limits and lists
// while it runs, and reads what it counted. It owns what is typed: commands, flags, exit codes, and
// the one line that says what went wrong.
//
// It must not know maps, links or netlink, and does not lay out what it shows: that is done by
// packages datapath and report.
package main
