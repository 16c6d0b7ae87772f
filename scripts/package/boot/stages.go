// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	hammerFrom = "10.77.0.66"
	otherFrom  = "10.77.0.2"
	server     = "10.77.0.1:8080"
)

const policyText = `version: 1
services:
  - name: web
    listen: [8080/tcp]
    limits: [{per: source, new: 1/h}]
  - name: login
    listen: [8081/tcp]
    limits: [{per: source, new: 1/h, over: challenge, ban: {after: 2, within: 1h, for: 1h}}]
block: [198.51.100.0/28]
`

// block is an entry of `block list -o json`, as far as it must come back. Hits are counted anew.
type block struct {
	Prefix, Origin, Scope string
	Reason, By            *string
	Created, Expires      *time.Time
}

func blocks(text string) ([]block, error) {
	var list struct{ Blocks []block }
	err := json.Unmarshal([]byte(text), &list)
	return list.Blocks, err
}

func first() error {
	// The test must be able to fail: without synward the hammer gets in.
	err := waitFor("the hammer to get in", func() (bool, error) {
		_, in, err := hammered()
		return in > 0, err
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(kept, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/policy.yaml", []byte(policyText), 0o600); err != nil {
		return err
	}
	err = script(
		"dpkg -i /root/synward.deb",
		"systemctl is-enabled synward-restore.service",
		"systemctl is-active synward-restore.service",
		addLate,
		"echo 2 >/proc/sys/net/ipv4/tcp_syncookies",
		"systemctl is-active synward-save.timer",
		"systemctl start synward-save.service",
		"synward attach srv0 -f /etc/policy.yaml",
		"synward attach late0 --mode tc",
		"synward block add "+hammerFrom+" --for 1h --reason 'hammers'",
		"synward block add 203.0.113.0/24 --for 2h",
		"synward block add 2001:db8:7::/64 --for 90m --scope new",
		"synward block add 203.0.113.77",
		"synward block add 192.0.2.66 --for 1s",
		"synward allow add 192.0.2.0/28 --reason office",
		"synward policy >"+kept+"/policy.yaml",
		"synward allow list -o json >"+kept+"/allows.json",
		"synward history",
	)
	if err != nil {
		return err
	}
	// Behind all that saves: the ban comes back because the unit saves at shutdown.
	if err := script("systemctl stop synward-save.timer"); err != nil {
		return err
	}
	if err := offend(); err != nil {
		return err
	}
	// The last, because the next boot tells by it that there was this one.
	return script("synward block list -o json >"+kept+"/new", "sync", "mv "+kept+"/new "+kept+"/blocks.json", "sync")
}

func second() error {
	for _, look := range []func() error{
		restoreCameFirst, listsCameBack, policyCameBack, firstPacketWasJudged, limitHolds, lateInterface, banHolds, noUnitFailed, historyIsThere,
	} {
		if err := look(); err != nil {
			return err
		}
	}
	return nil
}

// restoreCameFirst: it ended well before the network was set up.
func restoreCameFirst() error {
	text, err := shell("systemctl show -p ActiveState -p SubState -p Result -p ActiveEnterTimestampMonotonic synward-restore.service; " +
		"systemctl show -p InactiveExitTimestampMonotonic boot-network.service; journalctl -o cat -u synward-restore.service")
	if err != nil {
		return err
	}
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = value
		}
	}
	var restored, network int64
	_, err = fmt.Sscan(values["ActiveEnterTimestampMonotonic"]+" "+values["InactiveExitTimestampMonotonic"], &restored, &network)
	if err != nil || values["Result"] != "success" || values["SubState"] != "exited" || restored == 0 || restored > network {
		return fmt.Errorf("synward-restore.service: %v, %v; the network came at %d", values, err, network)
	}
	return nil
}

func noUnitFailed() error {
	failed, _, err := quietly("systemctl --failed --no-legend --plain")
	if err == nil && strings.TrimSpace(failed) != "" {
		err = fmt.Errorf("failed units: %s", failed)
	}
	return err
}

func listsCameBack() error {
	text, err := os.ReadFile(kept + "/blocks.json")
	if err != nil {
		return err
	}
	before, err := blocks(string(text))
	if err != nil {
		return err
	}
	before = slices.DeleteFunc(before, func(b block) bool { return b.Prefix == "192.0.2.66/32" })
	now, _, err := quietly("synward block list -o json")
	if err != nil {
		return err
	}
	after, err := blocks(now)
	if err != nil || len(after) != len(before) || len(after) != 6 {
		return fmt.Errorf("%d blocks came back of %d, want 6: %v", len(after), len(before), err)
	}
	for i, was := range before {
		if err := same(was, after[i]); err != nil {
			return err
		}
	}
	allows, err := shell("synward allow list -o plain")
	if err == nil && allows != "192.0.2.0/28\n" {
		err = fmt.Errorf("the allow list is %q", allows)
	}
	return err
}

// same: an entry is what it was, and ends within a second of when it was to end.
func same(was, is block) error {
	off, err := apart(was.Expires, is.Expires)
	fmt.Printf("%s ends %s off\n", was.Prefix, off)
	was.Expires, is.Expires = nil, nil
	made, madeErr := apart(was.Created, is.Created)
	was.Created, is.Created = nil, nil
	a, _ := json.Marshal(was)
	b, _ := json.Marshal(is)
	if err := errors.Join(err, madeErr); err != nil || off > time.Second || made > time.Second || string(a) != string(b) {
		return fmt.Errorf("block was %s and is %s, its end %s off, its beginning %s: %v", a, b, off, made, err)
	}
	return nil
}

func apart(a, b *time.Time) (time.Duration, error) {
	switch {
	case a == nil && b == nil:
		return 0, nil
	case a == nil || b == nil:
		return 0, fmt.Errorf("time was %v and is %v", a, b)
	}
	return a.Sub(*b).Abs(), nil
}

func policyCameBack() error {
	return script("synward policy | diff "+kept+"/policy.yaml -", "synward apply -f /etc/policy.yaml 2>&1 | grep 'already so'")
}
