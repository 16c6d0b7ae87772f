// SPDX-License-Identifier: Apache-2.0

// Command boot runs inside the VM of test-boot.sh: it installs the package and sets limits at the first boot, and
// looks at the second whether they came back before any packet did. It knows of synward only what its commands and
// its package show.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// kept is where the first boot leaves what the second compares with.
const kept = "/var/lib/boot-test"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Printf("BOOT-TEST failed: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "listen":
		return listen(args[1:])
	case len(args) == 4 && args[0] == "hammer":
		return hammer(args[1], args[2], args[3])
	case len(args) == 3 && args[0] == "dial":
		if err := dial(args[1], args[2]); err != nil {
			return err
		}
		fmt.Println("connected")
		return nil
	case len(args) == 1 && args[0] == "stage":
		return stage()
	}
	return errors.New("usage: boot listen ADDR... | dial FROM TO | hammer FROM TO FILE | stage")
}

// stage does what this boot is for, and has the machine go on to the next or off.
func stage() error {
	_, err := os.Stat(kept + "/blocks.json")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := first(); err != nil {
			return err
		}
		fmt.Println("BOOT-TEST rebooting")
		_, err := shell("systemctl --no-block reboot")
		return err
	case err != nil:
		return err
	}
	if err := second(); err != nil {
		return err
	}
	fmt.Println("BOOT-TEST passed")
	return nil
}

// shell runs a line, shows it with what it says, and returns its stdout.
func shell(line string) (string, error) {
	stdout, stderr, err := quietly(line)
	fmt.Printf("# %s\n%s%s", line, stdout, stderr)
	return stdout, err
}

// quietly is for what is asked over and over.
func quietly(line string) (stdout, stderr string, err error) {
	cmd := exec.Command("sh", "-c", line)
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("%s: %w: %s", line, err, said.String())
	}
	return out.String(), said.String(), err
}

// script runs lines until one fails.
func script(lines ...string) error {
	for _, line := range lines {
		if _, err := shell(line); err != nil {
			return err
		}
	}
	return nil
}
