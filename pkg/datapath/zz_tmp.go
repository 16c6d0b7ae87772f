// SPDX-License-Identifier: Apache-2.0

package datapath

import "github.com/vishvananda/netlink"

func RequireFeatures() error                       { return nil }
func preflight(nl netlink.Link, m Mode) []string { return nil }
