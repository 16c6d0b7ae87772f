// SPDX-License-Identifier: Apache-2.0

// Package policy owns what the operator wants: the policy file, its model and its rules, what two policies
// differ in, how a limit reads in words, and which service and limits a packet meets. It is the oracle of
// what the data path must do: Match, Applies, Covers and Meter say it without a kernel.
//
// It must not know a kernel: no map, no interface, no clock, no file, and nothing of how a value is
// stored or shown in a table. Whoever parses a policy hands it the text, and a function for the lists that
// the text names.
package policy
