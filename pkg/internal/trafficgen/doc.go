// SPDX-License-Identifier: Apache-2.0

// Package trafficgen owns packets: it crafts single frames, good ones and ones that are wrong in a chosen way,
// and it sends floods of SYNs or datagrams from a chosen mix of sources through an XDP program of its own, at
// millions a second from one core.
//
// It must not know who judges the packets: no limit, no reason, no map of synward. It never sends where it was
// not told to, and every flood has a bound.
package trafficgen
