// SPDX-License-Identifier: Apache-2.0

//go:build race

package datapath_test

// slowly: the race detector is on, and an instance takes ten times as long to open.
const slowly = true
