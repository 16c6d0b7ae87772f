// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// firstPacketWasJudged: the blocked hammer, which was at work before the network was up, never got in, and the
// interface has never received a packet that was not judged.
func firstPacketWasJudged() error {
	err := waitFor("the hammer to try", func() (bool, error) {
		tried, _, err := hammered()
		return tried > 20, err
	})
	if err != nil {
		return err
	}
	if err := script("systemctl stop boot-hammer.service", "synward block list | grep '^"+hammerFrom+" '"); err != nil {
		return err
	}
	tried, in, err := hammered()
	fmt.Printf("the hammer tried %d times since the boot, and got in %d times\n", tried, in)
	if err != nil || in != 0 {
		return fmt.Errorf("the hammer got in %d times of %d: %v", in, tried, err)
	}
	var all, judged uint64
	err = waitFor("all packets to be judged", func() (bool, error) {
		if all, err = received("srv0"); err != nil {
			return false, err
		}
		if judged, err = judgedOn("srv0"); err != nil {
			return false, err
		}
		return all == judged && all > 0, fmt.Errorf("received %d, judged %d", all, judged)
	})
	fmt.Printf("srv0 received %d packets since it was made, %d were judged\n", all, judged)
	if err != nil {
		return err
	}
	return hammerWasRefused()
}

// judgedOn is what was judged on an interface. status exits with 4 while another has no traffic.
func judgedOn(ifname string) (uint64, error) {
	text, _, err := quietly("synward status -o json || test $? = 4")
	if err != nil {
		return 0, err
	}
	var status struct {
		Interfaces []struct {
			Name   string
			Armed  bool
			Judged uint64
		}
	}
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		return 0, err
	}
	for _, one := range status.Interfaces {
		if one.Name == ifname && one.Armed {
			return one.Judged, nil
		}
	}
	return 0, fmt.Errorf("%s is not attached and armed", ifname)
}

// hammerWasRefused: by its block, and not for want of a network.
func hammerWasRefused() error {
	text, _, err := quietly("synward block list -o json")
	if err != nil {
		return err
	}
	var list struct {
		Blocks []struct {
			Prefix string
			Hits   uint64
		}
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return err
	}
	for _, b := range list.Blocks {
		if b.Prefix == hammerFrom+"/32" && b.Hits > 0 {
			fmt.Printf("its block was hit %d times\n", b.Hits)
			return nil
		}
	}
	return fmt.Errorf("the block of the hammer was never hit")
}

// limitHolds: of three connections of somebody else in an hour one gets in.
func limitHolds() error {
	in := 0
	for range 3 {
		if _, err := shell("nsenter --net=/run/netns/client /usr/local/bin/boot-test dial " + otherFrom + " " + server); err == nil {
			in++
		}
	}
	if in != 1 {
		return fmt.Errorf("%d connections of 3 got in under a limit of 1/h", in)
	}
	return nil
}

// lateInterface: what comes after the network is attached by its unit, as it was before: by TC, whose modules the
// kernel has to load for it. What was never attached is left alone.
func lateInterface() error {
	if err := script(addLate, "ip link add stranger0 type veth peer name stranger1"); err != nil {
		return err
	}
	err := waitFor("late0 to be attached", func() (bool, error) {
		_, err := judgedOn("late0")
		return err == nil, err
	})
	if err != nil {
		return err
	}
	err = waitFor("the units of the interfaces to end", func() (bool, error) {
		text, _, err := quietly("systemctl show -p ActiveState -p Result -p ConditionResult 'synward-restore@stranger0.service'")
		return strings.Contains(text, "ActiveState=inactive") && strings.Contains(text, "Result=success"), err
	})
	if err != nil {
		return err
	}
	if err := script("{ synward status || test $? = 4; } | grep '^late0  *tc  *yes '"); err != nil {
		return err
	}
	if _, err := judgedOn("stranger0"); err == nil {
		return fmt.Errorf("stranger0 was attached")
	}
	return nil
}

// historyIsThere: from before the reboot, of the restore, which found one interface missing, and of the later one.
func historyIsThere() error {
	return script("synward history | grep ' block add "+hammerFrom+" '", "synward history | grep ' exit code 4 *restore$'",
		"synward history | grep ' done *restore late0$'")
}
