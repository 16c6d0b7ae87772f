// SPDX-License-Identifier: Apache-2.0

// Package policy owns what the operator wants: rates, limits, prefixes and durations as they are
// typed, what of it makes sense, and how it reads in words.
//
// It must not know a kernel: no map, no interface, no clock, no file, and nothing of how a value is
// stored or shown in a table.
package policy
