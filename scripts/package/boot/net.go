// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	dialTimeout = 300 * time.Millisecond
	dialPause   = 20 * time.Millisecond
	// A busy host makes the VM so slow that a command takes half a minute.
	deadline = 5 * time.Minute
	// askPause keeps what is asked from taking the time of what is waited for.
	askPause = time.Second
)

// listen accepts connections and closes them, until it is killed.
func listen(addrs []string) error {
	ended := make(chan error, len(addrs))
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		go func() { ended <- accept(l) }()
	}
	return <-ended
}

func accept(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_ = c.Close()
	}
}

// dial opens one connection from an address of this network namespace.
func dial(from, to string) error {
	local, err := netip.ParseAddr(from)
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: dialTimeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))}
	c, err := d.Dial("tcp", to)
	if err != nil {
		return err
	}
	return c.Close()
}

// hammer connects all the time until it is killed, also before there is a network, and keeps in a file how often it
// tried and how often it was let in.
func hammer(from, to, file string) error {
	for tried, in := 1, 0; ; tried++ {
		if dial(from, to) == nil {
			in++
		}
		if err := os.WriteFile(file+".new", fmt.Appendf(nil, "%d %d", tried, in), 0o600); err != nil {
			return err
		}
		if err := os.Rename(file+".new", file); err != nil {
			return err
		}
		time.Sleep(dialPause)
	}
}

// hammered reads that file.
func hammered() (tried, in int, err error) {
	text, err := os.ReadFile("/run/hammer")
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(string(text), &tried, &in)
	return tried, in, err
}

// received is what an interface has ever received.
func received(ifname string) (uint64, error) {
	text, err := os.ReadFile("/sys/class/net/" + ifname + "/statistics/rx_packets")
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// waitFor asks until something is so.
func waitFor(what string, ask func() (bool, error)) error {
	end := time.Now().Add(deadline)
	for {
		ok, err := ask()
		if ok {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %s for %s: %v", deadline, what, err)
		}
		time.Sleep(askPause)
	}
}
