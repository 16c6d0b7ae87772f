// SPDX-License-Identifier: Apache-2.0

// Package report owns how things are shown: tables for people, JSON documents with a versioned schema
// for programs, plain lists that can be fed back. Output is stable and sorted, and it is the same
// whether or not it goes to a terminal.
//
// It must not know commands, flags or exit codes, and reads nothing itself: what it shows, and the
// time that it is, are given to it.
package report
