// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/synward/synward/pkg/policy"
)

// choice is a flag that takes one of a few words.
type choice[T ~string] struct {
	value   *T
	allowed []T
}

// choiceFlag adds a flag that takes one of the words; the first is the default.
func choiceFlag[T ~string](flags *pflag.FlagSet, value *T, name, short, usage string, allowed ...T) {
	*value = allowed[0]
	c := choice[T]{value, allowed}
	flags.VarP(c, name, short, fmt.Sprintf("%s: %s", usage, c.words()))
}

func (c choice[T]) words() string {
	words := make([]string, len(c.allowed))
	for i, w := range c.allowed {
		words[i] = string(w)
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func (c choice[T]) String() string { return string(*c.value) }

// Type is what help shows in place of the value.
func (c choice[T]) Type() string { return "WORD" }

func (c choice[T]) Set(s string) error {
	if !slices.Contains(c.allowed, T(s)) {
		return fmt.Errorf("use %s", c.words())
	}
	*c.value = T(s)
	return nil
}

// format is how a reading command writes.
type format string

const (
	formatText  format = "text"
	formatJSON  format = "json"
	formatPlain format = "plain"
)

// outputFlag adds -o.
func outputFlag(cmd *cobra.Command, value *format, allowed ...format) {
	choiceFlag(cmd.Flags(), value, "output", "o", "write as", allowed...)
}

// confirmFlag is --confirm.
type confirmFlag struct{ text string }

// minConfirm is the shortest time to confirm in; the data path counts in seconds.
const minConfirm = time.Second

func (c *confirmFlag) add(flags *pflag.FlagSet, usage string) {
	flags.StringVar(&c.text, "confirm", "", usage)
}

// parse returns zero if the flag was not given.
func (c confirmFlag) parse() (time.Duration, error) {
	if c.text == "" {
		return 0, nil
	}
	d, err := policy.ParseDuration(c.text)
	if err == nil && d < minConfirm {
		err = usagef("--confirm %s is too short; use at least %s", c.text, minConfirm)
	}
	return d, err
}

// limitFlags are --new, --burst and --concurrent.
type limitFlags struct {
	rate       string
	burst      uint64
	concurrent string
}

func (l *limitFlags) add(flags *pflag.FlagSet, newUsage, concurrentUsage string) {
	flags.StringVar(&l.rate, "new", "", newUsage)
	flags.Uint64Var(&l.burst, "burst", 0, "`N` new connections of one source may come at once (default: COUNT of the rate)")
	flags.StringVar(&l.concurrent, "concurrent", "", concurrentUsage)
}

// parseConcurrent reads --concurrent; nil if it was not given.
func (l *limitFlags) parseConcurrent(flags *pflag.FlagSet) (*uint64, error) {
	if !flags.Changed("concurrent") {
		return nil, nil
	}
	n, err := policy.ParseConcurrent(l.concurrent)
	if err != nil {
		return nil, err
	}
	return &n, nil
}

// isOff: the flag takes a limit away.
func isOff(value string) bool { return value == "off" || value == "none" }

// parse makes the limit of --new and --burst. The burst is the rate's count if it was not given.
func (l *limitFlags) parse(flags *pflag.FlagSet) (*policy.NewLimit, error) {
	rate, err := policy.ParseRate(l.rate)
	if err != nil {
		return nil, err
	}
	limit := &policy.NewLimit{Rate: rate, Burst: rate.Count}
	if flags.Changed("burst") {
		limit.Burst = l.burst
	}
	if err := limit.Validate(); err != nil {
		return nil, err
	}
	return limit, nil
}

// sysctlFlag is for commands that may put challenges in force.
func sysctlFlag(cmd *cobra.Command, set *bool) {
	cmd.Flags().BoolVar(set, "set-sysctl", false,
		"set net.ipv4.tcp_syncookies and tcp_timestamps to 2, as over: challenge needs it, where the interfaces are")
}
