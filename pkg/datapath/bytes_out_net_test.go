// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/internal/testenv"
	"github.com/synward/synward/pkg/policy"
)

// What these policies need.
const (
	countsNothing = `
version: 1
services: [{name: web, listen: [8080/tcp, 8081/tcp], limits: [{per: source, new: 1M/s}]}]
`
	// countsAll drains 115 bytes a second, so what is owed is what was sent.
	countsAll = `
version: 1
services: [{name: web, listen: [8080/tcp, 8081/tcp], limits: [{per: source, bytes_out: 10MB/d, burst: 1GB}]}]
`
	countsMore = `
version: 1
services:
  - {name: web, listen: [8080/tcp, 8081/tcp], limits: [{per: source, bytes_out: 10MB/d, burst: 1GB}]}
  - {name: game, listen: [1007/udp], limits: [{per: source, packets: 600k/s}]}
`
	// refusesSoon is over its limit for as many seconds as megabytes were downloaded, and half a second less.
	refusesSoon = `
version: 1
services: [{name: web, listen: [8080/tcp, 8081/tcp], limits: [{per: source, bytes_out: 1MB/s, burst: 500kB}]}]
`
)

// downloadPatience is far more than any download takes, on an emulated CPU too.
const downloadPatience = 3 * time.Minute

// download is a connection over which a server has sent so much to a client, both still open.
type download struct {
	server *net.TCPConn
	client net.Conn
}

// download sends so many bytes from port 8081 to a client, at most pace a second (0: as fast as it goes), and
// returns when the client has them all.
func (b *bench) download(f family, size, pace int) download {
	b.t.Helper()
	var listener net.Listener
	err := b.Server.Do(func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", netip.AddrPortFrom(f.server, 8081).String())
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	defer listener.Close()
	client, err := testenv.Dial(b.Client, f.client, netip.AddrPortFrom(f.server, 8081), 900*time.Millisecond)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = client.Close() })
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(downloadPatience)); err != nil {
		b.t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = server.Close() })
	if err := errors.Join(server.SetDeadline(time.Now().Add(downloadPatience)), client.SetDeadline(time.Now().Add(downloadPatience))); err != nil {
		b.t.Fatal(err)
	}
	d := download{server.(*net.TCPConn), client}
	if pace > 0 {
		d.control(b.t, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, pace) })
	}
	sent := make(chan error, 1)
	go func() {
		_, err := d.server.ReadFrom(io.LimitReader(zeros{}, int64(size)))
		sent <- err
	}()
	if _, err := io.CopyN(io.Discard, client, int64(size)); err != nil {
		b.t.Fatal(err)
	}
	if err := errors.Join(<-sent, server.SetDeadline(time.Time{}), client.SetDeadline(time.Time{})); err != nil {
		b.t.Fatal(err)
	}
	return d
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func (d download) control(t *testing.T, fn func(fd int) error) {
	t.Helper()
	raw, err := d.server.SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) { err = fn(int(fd)) })
		if ctlErr != nil {
			err = ctlErr
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// wireBytes is what the server's socket says it has sent, headers of every segment included: Ethernet, IP, and TCP with
// timestamps; and the SYN-ACK.
func (d download) wireBytes(t *testing.T) float64 {
	t.Helper()
	var info *unix.TCPInfo
	d.control(t, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	header := 14 + 20 + 32
	if addr := d.server.RemoteAddr().(*net.TCPAddr); addr.IP.To4() == nil {
		header += 20
	}
	return float64(info.Bytes_sent) + float64(info.Segs_out)*float64(header) + float64(header+8)
}

// offload sets how packets of a server are cut: by the device (which here means never), by the stack behind the hook at
// egress, or before they are sent.
func (b *bench) offload(tso, gso bool) {
	b.t.Helper()
	if err := b.Server.SetSegmentation(b.ServerIf, tso, gso); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) owed(source netip.Addr) (owed float64) {
	b.t.Helper()
	b.read(func(i *datapath.Instance) error {
		before := i.Owed(b.t, source)
		sources, err := i.Sources()
		levels, levelsErr := i.Levels(source)
		owed = i.Owed(b.t, source)
		most := max(before, owed)
		for _, s := range sources {
			if s.Prefix.Contains(source) && (!s.Sends || !b.drained(most, s.BytesOut)) {
				b.t.Errorf("%s is owed %.0f bytes, and the ledger says %+v", source, owed, s)
			}
		}
		for _, l := range levels {
			if l.Limit.Kind == policy.KindBytesOut && !b.drained(most, l.Counted) {
				b.t.Errorf("%s is owed %.0f bytes, and its levels are %+v", source, owed, levels)
			}
		}
		return errors.Join(err, levelsErr)
	})
	return owed
}

// drained: what is shown is what was owed a moment before, less what a limit of 1 MB/s gives back in a second, and
// with the last ACK: it may have gone out between two looks, and have been given back before the third.
func (b *bench) drained(owed float64, shown uint64) bool {
	const ack = 14 + 40 + 32
	return float64(shown) <= owed+2+ack && float64(shown) >= owed-1e6
}

// received is what the client's interface has received, in bytes.
func (b *bench) received() uint64 {
	b.t.Helper()
	nl, err := b.Client.Netlink().LinkByName(b.ClientIf)
	if err != nil {
		b.t.Fatal(err)
	}
	return nl.Attrs().Statistics.RxBytes
}

// What is charged is what goes over the wire, to one in a hundred, however packets are cut and however fast they go.
// Where the stack cuts them behind the hook, the client's interface tells what came; where nobody does, the
// server's socket tells how many segments there would be.
func TestBytesOutAreWireBytes(t *testing.T) {
	for _, mode := range []datapath.Mode{datapath.ModeNative, datapath.ModeTC} {
		b := newBench(t, testenv.PairOptions{})
		b.attach(mode, nil)
		b.apply(countsAll)
		for name, f := range familiesIn(mode) {
			for _, cut := range []struct {
				name     string
				tso, gso bool
			}{{"TSO", true, true}, {"GSO", false, true}, {"neither", false, false}} {
				b.offload(cut.tso, cut.gso)
				for _, speed := range []struct{ pace, size int }{{64_000, 60_000}, {1_000_000, 500_000}, {50_000_000, 10_000_000}, {0, often(200_000_000, 20_000_000)}} {
					t.Run(fmt.Sprintf("%s/%s/%s/%d", mode, name, cut.name, speed.pace), func(t *testing.T) {
						b.t = t
						before, came := b.owed(f.client), b.received()
						d := b.download(f, speed.size, speed.pace)
						got, want := b.owed(f.client)-before, float64(b.received()-came)
						if cut.tso {
							want = d.wireBytes(t)
						}
						if got < want*0.99 || got > want*1.01 {
							t.Errorf("%.0f bytes were charged, and %.0f sent: %.4f", got, want, got/want)
						}
						t.Logf("%.0f of %.0f: %.4f", got, want, got/want)
					})
				}
			}
		}
		b.t = t
	}
}

// Who has downloaded more than his limit gets no new connection and keeps the one he has; others connect. Once
// he owes less than a burst he connects again.
func TestBytesOutRefusesNewConnections(t *testing.T) {
	eachModeAndFamily(t, func(b *bench, mode datapath.Mode, f family) {
		b.attach(mode, nil)
		b.apply(refusesSoon)
		server := b.server(f.server, testenv.ServerOptions{})
		b.mustConnect(server, f.client)
		// As many seconds as megabytes: on an emulated CPU what follows takes as long.
		d := b.download(f, often(2_500_000, 12_000_000), 0)
		b.mustNotConnect(server, f.client)
		b.mustConnect(server, f.beside)
		b.read(func(i *datapath.Instance) error {
			v, err := i.CheckAt(f.client, netip.AddrPortFrom(f.server, 8080))
			if v.Verdict != "drop" || v.Reason != "over_bytes_out" || v.Until.Before(time.Now()) {
				b.t.Errorf("check: %+v", v)
			}
			return err
		})
		if _, err := d.server.Write([]byte("open")); err != nil {
			b.t.Errorf("the open connection: %v", err)
		}
		if _, err := io.CopyN(io.Discard, d.client, 4); err != nil {
			b.t.Errorf("the open connection: %v", err)
		}
		if n := b.packets("over_bytes_out"); n == 0 {
			b.t.Error("nothing was counted as over_bytes_out")
		}
		testenv.WaitFor(b.t, time.Minute, "the client to be below its limit again", func() bool { return b.connect(server, f.client) == nil })
	})
}
