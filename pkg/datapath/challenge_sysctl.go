// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// challengeSysctl is a setting of a network namespace that challenges need.
type challengeSysctl struct {
	name, needs string
	// merely is what is missing without it, where challenges work all the same.
	merely string
}

// challengeSysctls: a listener takes cookies that it has not sent itself only under tcp_syncookies=2, and finds window
// scale and SACK in a timestamp only where no random offset is added to it, under tcp_timestamps=2.
func challengeSysctls() []challengeSysctl {
	return []challengeSysctl{
		{name: "net.ipv4.tcp_syncookies", needs: "2"},
		{name: "net.ipv4.tcp_timestamps", needs: "2", merely: "window scaling, SACK and timestamps"},
	}
}

// path is the setting of the calling thread's network namespace.
func (s challengeSysctl) path() string {
	return filepath.Join("/proc/sys", strings.ReplaceAll(s.name, ".", "/"))
}

func (s challengeSysctl) read() (string, error) {
	value, err := os.ReadFile(s.path())
	if err != nil {
		return "", fmt.Errorf("read %s: %w", s.name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// unanswered lists what keeps challenges from being sent, nil where no policy in force has any.
func (i *Instance) unanswered() (out []Unanswered, err error) {
	err = i.eachUnanswered(func(_ challengeSysctl, u Unanswered) error {
		out = append(out, u)
		return nil
	})
	return out, err
}

// eachUnanswered visits, from within its namespace, each interface with each setting that is not as it should be. An
// interface whose namespace cannot be found gets no packets either.
func (i *Instance) eachUnanswered(visit func(s challengeSysctl, u Unanswered) error) error {
	if i.featuresNeeded()&uint32(limiterFeatureFEATURE_CHALLENGE) == 0 {
		return nil
	}
	all, err := i.attached()
	if err != nil {
		return err
	}
	own, err := netnsCookie()
	if err != nil {
		return err
	}
	for _, at := range all {
		u := Unanswered{Interface: at.record.name()}
		if at.key.cookie != own {
			u.Netns = findNetns(map[uint64]bool{at.key.cookie: true})[at.key.cookie].name
		}
		err := at.insideNetns(func() error {
			for _, s := range challengeSysctls() {
				u.Sysctl, u.Needs, u.Merely = s.name, s.needs, s.merely
				if u.Is, err = s.read(); err != nil {
					return err
				}
				if u.Is == s.needs {
					continue
				}
				if err := visit(s, u); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errNetnsGone) {
			return fmt.Errorf("interface %s: %w", at.record.name(), err)
		}
	}
	return nil
}

// SetSysctls sets, in the network namespaces of all interfaces, what challenges need and is not so: what it returns, as
// it was. It sets nothing where no policy in force has challenges.
func (i *Instance) SetSysctls() (changed []Unanswered, err error) {
	err = i.eachUnanswered(func(s challengeSysctl, u Unanswered) error {
		if err := os.WriteFile(s.path(), []byte(s.needs), 0); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
		changed = append(changed, u)
		return nil
	})
	return changed, err
}
