// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
	"github.com/synward/synward/pkg/report"
)

// defaultTop is how many sources are shown: a screen.
const defaultTop = 20

type sourcesFlags struct {
	top    uint
	by     report.By
	output format
}

func newSourcesCmd(e *env) *cobra.Command {
	var f sourcesFlags
	cmd := &cobra.Command{
		Use:   "sources [ADDR]",
		Short: "Show who connects, and who is refused how often",
		Long: "Show the sources with the most refused or admitted new connections; of one address also what each limit counts\n" +
			"of it now, and its open connections, as far as a limit counts them.\n" +
			"Counts with a ~ are estimates from a sample, taken while a flood was on.",
		Args: atMostOneArg,
		RunE: e.asRoot(func(_ *cobra.Command, args []string) error { return runSources(e, args, f) }),
	}
	cmd.Flags().UintVar(&f.top, "top", defaultTop, "show `N`; 0 is all")
	choiceFlag(cmd.Flags(), &f.by, "by", "", "sort by", report.ByRefused, report.ByAdmitted, report.ByEstablished)
	outputFlag(cmd, &f.output, formatText, formatJSON, formatPlain)
	return cmd
}

func runSources(e *env, args []string, f sourcesFlags) error {
	if len(args) > 0 {
		return runSource(e, args[0], f)
	}
	shown := report.Sources{Now: e.now()}
	err := e.read(func(i instance) (err error) {
		shown.Sources, err = i.Sources()
		return err
	})
	if err != nil {
		return err
	}
	known := len(shown.Sources)
	report.SortSources(shown.Sources, f.by)
	if f.top > 0 && uint(known) > f.top {
		shown.Sources = shown.Sources[:f.top]
	}
	if err := writeSources(e, shown, f.output); err != nil {
		return err
	}
	switch {
	case known == 0:
		e.say("no new connection has been seen")
	case known > len(shown.Sources):
		e.say("%d of %d sources; --top 0 shows all", len(shown.Sources), known)
	}
	return nil
}

// runSource shows one source: its lines, what its limits count, and its connections.
func runSource(e *env, arg string, f sourcesFlags) error {
	only, err := parseSource(arg)
	if err != nil {
		return err
	}
	shown := report.Source{Sources: report.Sources{Now: e.now()}, Top: f.top}
	err = e.read(func(i instance) error {
		of, all, err := sourceOf(i, only)
		if err != nil {
			return err
		}
		shown.Sources.Sources = all
		if shown.Levels, err = i.Levels(only); err != nil {
			return err
		}
		shown.Conns, err = i.OpenConns(of.Contains)
		return err
	})
	if err != nil {
		return err
	}
	report.SortSources(shown.Sources.Sources, f.by)
	if len(shown.Sources.Sources) == 0 {
		e.say("no new connection of %s has been seen", only)
	}
	switch f.output {
	case formatJSON:
		return shown.JSON(e.stdout)
	case formatPlain:
		return shown.Plain(e.stdout)
	}
	return shown.Text(e.stdout)
}

// sourceOf finds the lines of the source that an address belongs to. What is not in the ledger is the address alone.
func sourceOf(i instance, addr netip.Addr) (of netip.Prefix, lines []datapath.Source, err error) {
	all, err := i.Sources()
	if err != nil {
		return of, nil, err
	}
	of = netip.PrefixFrom(addr, addr.BitLen())
	for _, s := range all {
		if s.Prefix.Contains(addr) {
			of = s.Prefix
			lines = append(lines, s)
		}
	}
	return of, lines, nil
}

func writeSources(e *env, shown report.Sources, output format) error {
	switch {
	case output == formatJSON:
		return shown.JSON(e.stdout)
	case output == formatPlain:
		return shown.Plain(e.stdout)
	case len(shown.Sources) == 0:
		return nil
	}
	return shown.Text(e.stdout)
}

// parseSource reads one source as `sources` shows it: an address, or the /64 of an IPv6 customer,
// for which its first address stands.
func parseSource(s string) (netip.Addr, error) {
	const source6 = 64
	if !strings.Contains(s, "/") {
		return policy.ParseAddr(s)
	}
	p, err := policy.ParsePrefix(s)
	if err != nil {
		return netip.Addr{}, err
	}
	if !p.IsSingleIP() && (p.Addr().Is4() || p.Bits() < source6) {
		return netip.Addr{}, fmt.Errorf("%w source %q: it holds more than one source; write one address or an IPv6 /64",
			policy.ErrInvalid, s)
	}
	return p.Addr(), nil
}
