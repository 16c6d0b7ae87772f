// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// Of the banned client and its neighbour, over an interface whose other end answers challenges as a host does.
const (
	offenderFrom  = "10.78.0.3"
	neighbourFrom = "10.78.0.4"
	login         = "10.78.0.1:8081"

	addLate = "ip link add late0 type veth peer name late1 netns client && ip addr add 10.78.0.1/24 dev late0 && " +
		"ip -n client addr add " + offenderFrom + "/24 dev late1 && ip -n client addr add " + neighbourFrom + "/24 dev late1 && " +
		"ip -n client link set late1 up && ip link set late0 up"
)

func dialLogin(from string) error {
	_, _, err := quietly("nsenter --net=/run/netns/client /usr/local/bin/boot-test dial " + from + " " + login)
	return err
}

// offend connects until the kernel bans: once without proof, once with, and then one strike a connection.
func offend() error {
	return waitFor("the offender to be banned", func() (bool, error) {
		_ = dialLogin(offenderFrom)
		_, _, err := quietly("synward block list | grep '^" + offenderFrom + " .* auto '")
		return err == nil, err
	})
}

// banHolds: for who was banned before the reboot, and for nobody else.
func banHolds() error {
	if dialLogin(offenderFrom) == nil {
		return fmt.Errorf("%s connects although it was banned before the reboot", offenderFrom)
	}
	if err := dialLogin(neighbourFrom); err != nil {
		return fmt.Errorf("the neighbour of a banned address is refused: %w", err)
	}
	return script("synward block list | grep '^" + offenderFrom + " .* auto .* 2 strikes at login$'")
}
