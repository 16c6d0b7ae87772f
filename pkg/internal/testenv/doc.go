// SPDX-License-Identifier: Apache-2.0

// Package testenv owns the small worlds that tests with real sockets live in: network namespaces, the veth
// pairs between them, addresses and routes, a private bpffs, a counting TCP server and clients that connect
// from a chosen source address. Everything that it makes is taken away by T.Cleanup.
//
// It must not know synward: no policy, no data path, no map, no pin, no verdict. It can tell that a
// connection was made, was answered with RST or got no answer, never why.
package testenv
