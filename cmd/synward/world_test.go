// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// world is what a kernel script lives in: a bpffs, and a server and a client in network namespaces of
// their own, joined by a veth. (Package pkg/internal/testenv cannot be imported from here.)
type world struct {
	bpffs, server, client string
}

// worlds numbers them, since scripts run beside each other.
type worlds struct {
	n atomic.Int64
	// prefix keeps those of two tests apart.
	prefix string
}

// worldVariables hands a world on to a command whose environment begins anew.
const worldVariables = "SYNWARD_PIN_DIR=$SYNWARD_PIN_DIR SYNWARD_STATE_DIR=$SYNWARD_STATE_DIR SYNWARD_LOG_DIR=$SYNWARD_LOG_DIR GORACE=$GORACE "

// setup gives a script its world: $SERVER and $CLIENT are the files for nsenter --net=, $SERVER_IF and
// $CLIENT_IF the two ends of the veth, $SERVER_IP4, $CLIENT_IP4, $SERVER_IP6 and $CLIENT_IP6 their
// addresses, $SYNWARD_PIN_DIR an instance of its own in the bpffs, $SYNWARD_STATE_DIR where it is saved.
func (ws *worlds) setup(e *testscript.Env) error {
	id := fmt.Sprintf("synward-cmd-%s%d-%d-", ws.prefix, os.Getpid(), ws.n.Add(1))
	w := world{bpffs: filepath.Join(e.WorkDir, "bpffs"), server: id + "server", client: id + "client"}
	e.Defer(w.remove)
	exitAtOnce(e)
	for key, value := range map[string]string{
		pinDirVariable: filepath.Join(w.bpffs, "synward"), "BPFFS": w.bpffs,
		logDirVariable:   filepath.Join(e.WorkDir, "log"),
		stateDirVariable: filepath.Join(e.WorkDir, "state"),
		"SERVER":         "/run/netns/" + w.server, "SERVER_IF": "srv0", "SERVER_IP4": "10.77.0.1", "SERVER_IP6": "fd77::1",
		"CLIENT": "/run/netns/" + w.client, "CLIENT_IF": "cli0", "CLIENT_IP4": "10.77.0.2", "CLIENT_IP6": "fd77::2",
	} {
		e.Setenv(key, value)
	}
	return w.build()
}

func (w world) build() error {
	if err := os.Mkdir(w.bpffs, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("bpffs", w.bpffs, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs: %w", err)
	}
	for _, line := range []string{
		"netns add " + w.server,
		"netns add " + w.client,
		"-n " + w.server + " link add srv0 type veth peer name cli0 netns " + w.client,
		"-n " + w.server + " addr add 10.77.0.1/16 dev srv0",
		"-n " + w.client + " addr add 10.77.0.2/16 dev cli0",
		"-n " + w.server + " addr add fd77::1/64 dev srv0 nodad",
		"-n " + w.client + " addr add fd77::2/64 dev cli0 nodad",
		"-n " + w.server + " link set lo up",
		"-n " + w.server + " link set srv0 up",
		"-n " + w.client + " link set cli0 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	return nil
}

// remove takes away as much of the world as was built. With the bpffs go its pins, with a namespace
// its interfaces.
func (w world) remove() {
	_ = syscall.Unmount(w.bpffs, syscall.MNT_DETACH)
	for _, ns := range []string{w.server, w.client} {
		_ = exec.Command("ip", "netns", "del", ns).Run()
	}
}
