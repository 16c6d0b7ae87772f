// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

const (
	// dialTimeout is shorter than the second after which the kernel sends a SYN again.
	dialTimeout    = 300 * time.Millisecond
	scriptDeadline = 20 * time.Second
)

// mainDial is the program dial ADDRESS:PORT [N]: it opens N TCP connections, one after the other, and says how
// many the other side accepted.
func mainDial() {
	times := argument(2, 1)
	connected, reset := 0, 0
	for range times {
		c, err := net.DialTimeout("tcp", os.Args[1], dialTimeout)
		switch e, ok := err.(net.Error); {
		case err == nil:
			connected++
			c.Close()
		case !ok || !e.Timeout():
			reset++
		}
	}
	fmt.Printf("%d tried, %d connected, %d reset\n", times, connected, reset)
}

// mainSend is the program send ADDRESS:PORT [N]: it sends N datagrams.
func mainSend() {
	to, err := net.ResolveUDPAddr("udp", os.Args[1])
	check(err)
	// Not connected: else what the kernel says of a closed port is an error of the next send.
	c, err := net.ListenUDP("udp", nil)
	check(err)
	for range argument(2, 1) {
		_, err := c.WriteTo([]byte("datagram"), to)
		check(err)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailed)
	}
}

func argument(at, otherwise int) int {
	if len(os.Args) <= at {
		return otherwise
	}
	n, err := strconv.Atoi(os.Args[at])
	check(err)
	return n
}

// mainSSHD is a program that synward takes for an sshd with a session: by its name, and by the connection
// that it holds. It listens on a port, and says so to whoever connects, once the connection is its own.
func mainSSHD() {
	l, err := net.Listen("tcp", ":"+os.Args[1])
	check(err)
	fmt.Println("listening")
	var held []net.Conn
	for {
		c, err := l.Accept()
		check(err)
		held = append(held, c)
		fmt.Fprintln(c, "welcome", len(held))
	}
}

// inside runs f in the network namespace of a file.
func inside(netns string, f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		file, err := os.Open(netns)
		if err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// serve listens on TCP ports in the server's namespace until the script ends.
func serve(ts *testscript.TestScript, neg bool, ports []string) {
	if neg || len(ports) == 0 {
		ts.Fatalf("usage: serve PORT...")
	}
	for _, port := range ports {
		var l net.Listener
		ts.Check(inside(ts.Getenv("SERVER"), func() (err error) {
			l, err = net.Listen("tcp", ":"+port)
			return err
		}))
		ts.Defer(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	}
}

// hold listens on a port in the server's namespace and has the client open so many connections to it, of which so
// many must be made. Both sides hold them until the script ends.
func hold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: hold PORT N WANT")
	}
	tries, err := strconv.Atoi(args[1])
	ts.Check(err)
	var l net.Listener
	ts.Check(inside(ts.Getenv("SERVER"), func() (err error) {
		l, err = net.Listen("tcp", ":"+args[0])
		return err
	}))
	ts.Defer(func() { l.Close() })
	open := 0
	ts.Check(inside(ts.Getenv("CLIENT"), func() error {
		for range tries {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(ts.Getenv("SERVER_IP4"), args[0]), dialTimeout)
			if err == nil {
				open++
				ts.Defer(func() { c.Close() })
			}
		}
		return nil
	}))
	if strconv.Itoa(open) != args[2] {
		ts.Fatalf("%d of %d connections were made, want %s", open, tries, args[2])
	}
}

// download listens on a port in the server's namespace and has the client take all that comes, as fast as it comes,
// until the script ends.
func download(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: download PORT")
	}
	var l net.Listener
	ts.Check(inside(ts.Getenv("SERVER"), func() (err error) {
		l, err = net.Listen("tcp", ":"+args[0])
		return err
	}))
	ended := make(chan struct{})
	ts.Defer(func() { close(ended); l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { <-ended; c.Close() }()
		for err == nil {
			_, err = c.Write(make([]byte, 1<<16))
		}
	}()
	ts.Check(inside(ts.Getenv("CLIENT"), func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ts.Getenv("SERVER_IP4"), args[0]), scriptDeadline)
		if err != nil {
			return err
		}
		ts.Defer(func() { c.Close() })
		go func() { _, _ = io.Copy(io.Discard, c) }()
		return nil
	}))
}

// login runs sshd on a port in the server's namespace, and connects to it from the client's.
func login(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: login PORT")
	}
	sshd := exec.Command("nsenter", "--net="+ts.Getenv("SERVER"), "--", "sshd", args[0])
	sshd.Env = []string{"PATH=" + ts.Getenv("PATH")}
	out, err := sshd.StdoutPipe()
	ts.Check(err)
	ts.Check(sshd.Start())
	ts.Defer(func() { _ = sshd.Process.Kill(); _ = sshd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		ts.Fatalf("sshd does not listen: %v", err)
	}
	ts.Check(inside(ts.Getenv("CLIENT"), func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ts.Getenv("SERVER_IP4"), args[0]), scriptDeadline)
		if err != nil {
			return err
		}
		ts.Defer(func() { c.Close() })
		_, err = bufio.NewReader(c).ReadString('\n')
		return err
	}))
}

// until runs a command in the server's namespace over and over, until what it prints matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	if !becomes(func() bool {
		// An exit code may be part of what is waited for.
		_ = ts.Exec("nsenter", append([]string{"--net=" + ts.Getenv("SERVER"), "--"}, args[1:]...)...)
		return want.MatchString(ts.ReadFile("stdout") + ts.ReadFile("stderr"))
	}) {
		ts.Fatalf("%v: no %q in %s", args[1:], args[0], scriptDeadline)
	}
}

// becomes looks at a condition until it holds, at most until the deadline.
func becomes(cond func() bool) bool {
	for start := time.Now(); !cond(); <-time.After(50 * time.Millisecond) {
		if time.Since(start) > scriptDeadline {
			return false
		}
	}
	return true
}
