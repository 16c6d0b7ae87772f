// SPDX-License-Identifier: Apache-2.0

// Package policygen draws random policies that make sense, for the property tests of whoever reads, writes or
// compiles them. What it draws is full of near misses: few prefixes that meet, names that YAML could take for
// numbers, listen addresses that cross each other.
//
// It must not know what becomes of a policy: no text, no difference, no kernel.
package policygen
