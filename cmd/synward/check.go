// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/report"
)

type checkFlags struct {
	port   string
	output format
}

func newCheckCmd(e *env) *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check ADDR",
		Short: "Say whether a new connection of an address would pass now",
		Long: "Say whether a new TCP connection of an address would pass now, and if not: why, until when, and the command\n" +
			"that lets it in. It changes nothing. Exit code 6 if it would be refused.\n\n" +
			"With more than one service it must be told the port that the connection is for, and where services differ by\n" +
			"local address that too.",
		Example: "  synward check 192.0.2.1\n  synward check 192.0.2.1 --port 443\n" +
			"  synward check 2001:db8::1 --port [2001:db8::10]:443",
		Args: oneArg("an address"),
		RunE: e.asRoot(func(cmd *cobra.Command, args []string) error { return runCheck(e, cmd, args[0], f) }),
	}
	cmd.Flags().StringVar(&f.port, "port", "", "TCP `PORT` that it would connect to, or ADDRESS:PORT (default: that of the only service)")
	outputFlag(cmd, &f.output, formatText, formatJSON)
	return cmd
}

func runCheck(e *env, cmd *cobra.Command, arg string, f checkFlags) error {
	addr, err := parseSource(arg)
	if err != nil {
		return err
	}
	var local netip.AddrPort
	if cmd.Flags().Changed("port") {
		if local, err = parseLocal(f.port, addr); err != nil {
			return err
		}
	}
	answer := report.Check{Now: e.now(), Addr: addr, Program: e.program()}
	err = e.read(func(i instance) (err error) {
		if answer.Policy, err = i.Policy(); err != nil {
			return err
		}
		if answer.Strikes, err = i.Strikes(addr); err != nil {
			return err
		}
		answer.Verdict, err = i.CheckAt(addr, local)
		return err
	})
	if err != nil {
		return err
	}
	write := answer.Text
	if f.output == formatJSON {
		write = answer.JSON
	}
	if err := write(e.stdout); err != nil {
		return err
	}
	if answer.Refused() {
		return exitError{exitOver}
	}
	return nil
}

// parseLocal reads where a connection of source would go: a port, or an address and a port.
func parseLocal(text string, source netip.Addr) (netip.AddrPort, error) {
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		if n == 0 || n > math.MaxUint16 {
			return netip.AddrPort{}, usagef("there is no port %d; use 1 to %d", n, math.MaxUint16)
		}
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), nil
	}
	local, err := netip.ParseAddrPort(text)
	if err != nil || local.Port() == 0 || local.Addr().Zone() != "" {
		return netip.AddrPort{}, usagef("invalid port %q: write it as in 443, 203.0.113.10:443 or [2001:db8::10]:443", text)
	}
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	if local.Addr().Is4() != source.Is4() {
		return netip.AddrPort{}, usagef("%s cannot connect to %s: one is IPv4 and one IPv6", source, local.Addr())
	}
	return local, nil
}
