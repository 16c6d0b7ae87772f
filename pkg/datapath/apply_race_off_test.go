// SPDX-License-Identifier: Apache-2.0

//go:build !race

package datapath_test

const slowly = false
