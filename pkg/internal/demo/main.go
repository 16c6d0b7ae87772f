// SPDX-License-Identifier: Apache-2.0

// Command demo shows synward at work: a server and two clients in network namespaces of its own, one
// client that behaves and one that hammers, both with real TCP connections. It touches no interface
// of the machine and leaves nothing behind.
package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/synward/synward/pkg/internal/testenv"
)

const (
	limitPerSecond = 10
	burst          = 20
	politeRate     = 5
	hammerRate     = 200
	seconds        = 5
	port           = 8080
)

// play is what the demo needs of its surroundings.
type play struct {
	*stage
	pair    *testenv.Pair
	synward string
	pinDir  string
	// stateDir keeps the demo's state and log out of those of the machine.
	stateDir string
	server   *testenv.Server
	polite   netip.Addr
	hammer   netip.Addr
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo PATH-OF-SYNWARD")
		os.Exit(2)
	}
	os.Exit(perform(os.Args[1]))
}

func perform(synward string) int {
	s := &stage{}
	return s.run(func() {
		testenv.RequireRoot(s)
		p := newPlay(s, synward)
		p.attach()
		p.crowd()
		p.show()
		p.block()
		p.run("detach", "--all")
		fmt.Println("\nDone. The namespaces, the pins and the programs are gone.")
	})
}

func newPlay(s *stage, synward string) *play {
	hammer := netip.MustParseAddr("10.77.0.66")
	p := &play{
		stage: s, synward: synward, pinDir: testenv.BPFFS(s) + "/synward", stateDir: s.TempDir(),
		pair: testenv.NewPair(s, testenv.PairOptions{ClientAddrs: []netip.Addr{hammer}}), hammer: hammer,
	}
	p.polite = p.pair.ClientIP4
	p.server = testenv.NewServer(s, p.pair.Server, netip.AddrPortFrom(p.pair.ServerIP4, port), testenv.ServerOptions{})
	fmt.Printf("A server listens on %s. Two clients reach it: %s behaves, %s hammers.\n", p.server.Addr(), p.polite, p.hammer)
	return p
}

// run types one synward command inside the server's namespace and shows it with its output.
func (p *play) run(args ...string) {
	fmt.Printf("\n# synward %s\n", strings.Join(args, " "))
	cmd := p.command(args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Run(); err != nil {
		p.Fatalf("synward %s: %v", args[0], err)
	}
}

// command is synward in the server's namespace, with an instance and a state of its own.
func (p *play) command(args ...string) *exec.Cmd {
	cmd := p.pair.Server.Command(p.synward, append(args, "--pin-dir", p.pinDir)...)
	cmd.Env = append(os.Environ(), "SYNWARD_STATE_DIR="+p.stateDir, "SYNWARD_LOG_DIR="+p.stateDir)
	return cmd
}

func (p *play) attach() {
	p.run("attach", p.pair.ServerIf, "--new", fmt.Sprintf("%d/s", limitPerSecond), "--burst", fmt.Sprint(burst))
	p.Cleanup(func() {
		_ = p.command("detach", "--all").Run()
	})
}

// crowd lets both clients loose at once.
func (p *play) crowd() {
	fmt.Printf("\nFor %d seconds %s opens %d connections a second and %s opens %d ...\n",
		seconds, p.polite, politeRate, p.hammer, hammerRate)
	var all sync.WaitGroup
	results := map[netip.Addr]*testenv.HammerResult{p.polite: {}, p.hammer: {}}
	for addr, perSecond := range map[netip.Addr]float64{p.polite: politeRate, p.hammer: hammerRate} {
		all.Go(func() {
			res, err := testenv.Hammer(p.pair.Client, testenv.HammerOptions{
				Sources: []netip.Addr{addr}, Dst: p.server.Addr(), Rate: perSecond, Duration: seconds * time.Second,
			})
			if err != nil {
				p.Logf("%v", err)
			}
			*results[addr] = res
		})
	}
	all.Wait()
	for _, addr := range []netip.Addr{p.polite, p.hammer} {
		fmt.Printf("  %-11s tried %4d, the server accepted %4d\n", addr, results[addr].Attempted, p.server.Count(addr))
	}
	fmt.Printf("The limit allows a burst of %d and then %d a second: about %d in %d seconds. The client that behaves lost nothing.\n",
		burst, limitPerSecond, burst+limitPerSecond*seconds, seconds)
	if p.server.Count(p.polite) != results[p.polite].Attempted {
		p.Fatalf("the client that behaves was refused: that is a bug")
	}
}

func (p *play) show() {
	p.run("status")
	p.run("sources", "--by", "refused")
	fmt.Println("\nThe refused SYNs never reached the server's TCP stack: XDP dropped them at the interface.")
}

// block shows a ban that ends by itself.
func (p *play) block() {
	p.run("block", "add", p.hammer.String(), "--for", "1s", "--reason", "hammering")
	p.run("check", p.polite.String())
	connect := func() error {
		return testenv.Connect(p.pair.Client, p.hammer, p.server.Addr(), 300*time.Millisecond)
	}
	if connect() == nil {
		p.Fatalf("a blocked client connected: that is a bug")
	}
	fmt.Printf("\n%s is blocked now, for one second, and no process has to live for that to end ...\n", p.hammer)
	testenv.WaitFor(p, 10*time.Second, "the block to end", func() bool { return connect() == nil })
	fmt.Printf("... and now %s connects again.\n", p.hammer)
}
