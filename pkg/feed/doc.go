// SPDX-License-Identifier: Apache-2.0

// Package feed reads lists of addresses as others publish them, and holds what they name as a set. It owns how
// an address or a prefix is written.
//
// It must not know a kernel, a policy, a file system, nor what becomes of the addresses.
package feed
