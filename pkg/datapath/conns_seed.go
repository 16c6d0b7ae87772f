// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// concurrentFeature is what a policy needs that counts concurrent connections.
const concurrentFeature = uint32(limiterFeatureFEATURE_CONCURRENT)

// handshakeFeatures are those for which handshakes must be seen.
const handshakeFeatures = concurrentFeature | uint32(limiterFeatureFEATURE_EXEMPT)

// widenConns begins to count connections if a policy that is about to come into force needs it, and counts those
// that are open already under its limits.
func (i *Instance) widenConns(c *compiled, generation uint16) error {
	if c.head.Features&handshakeFeatures == 0 {
		return nil
	}
	if err := i.attachConns(); err != nil || c.head.Features&concurrentFeature == 0 {
		return err
	}
	return i.seedConns(slotOfGeneration(generation), false)
}

// settleConns brings the counting in line with the policy in force: sockets that were opened while it came into
// force are counted under its limits, what it does not count is given back, and where no policy needs the
// counting, it ends. It does nothing where all is so.
func (i *Instance) settleConns() error {
	if i.featuresNeeded()&handshakeFeatures == 0 {
		return i.detachConns()
	}
	if err := i.attachConns(); err != nil {
		return err
	}
	control, err := i.connControl()
	if err != nil {
		return err
	}
	now := monotonicNow()
	l := i.live()
	inForce := l.inForce(now)
	// Of a policy that waits both are in force, and the counts of both go on.
	done := uint64(inForce)<<1 | 1
	if l.pending(now) {
		done = uint64(inForce) << 1
	}
	if control.Seeded == done {
		return nil
	}
	if i.control.Policies[slotOfGeneration(inForce)].Features&concurrentFeature != 0 {
		if err := i.seedConns(slotOfGeneration(inForce), !l.pending(now)); err != nil {
			return err
		}
	}
	control.Seeded = done
	if err := i.maps.ConnControls.Put(uint32(0), control); err != nil {
		return fmt.Errorf("write state of connections: %w", err)
	}
	return nil
}

// seedConns counts the sockets that are open, of all network namespaces, under the limits of a slot. A socket that is
// counted already stays as it is. prune gives back what the slot does not count.
func (i *Instance) seedConns(slot uint32, prune bool) error {
	control, err := i.connControl()
	if err != nil {
		return err
	}
	set := connSettings{epoch: control.Epoch, slot: slot, prunes: prune}
	prog, err := i.maps.loadConns(connsProgSynwardSeed, set)
	if err != nil {
		return err
	}
	defer prog.Close()
	it, err := link.AttachIter(link.IterOptions{Program: prog})
	if err != nil {
		return fmt.Errorf("walk sockets: %w", err)
	}
	defer it.Close()
	return eachNetns(func(path string) error {
		if err := i.clearListening(); err != nil {
			return err
		}
		return inNetns(path, func() error { return walk(it) })
	})
}

// walk runs an iterator to its end, over the sockets of the caller's network namespace.
func walk(it *link.Iter) error {
	sockets, err := it.Open()
	if err != nil {
		return fmt.Errorf("walk sockets: %w", err)
	}
	defer sockets.Close()
	if _, err := io.Copy(io.Discard, sockets); err != nil {
		return fmt.Errorf("walk sockets: %w", err)
	}
	return nil
}

func (i *Instance) clearListening() error {
	keys := make([]uint32, limiterConnSizeLISTENING_WORDS)
	for n := range keys {
		keys[n] = uint32(n)
	}
	_, err := i.maps.ConnListening.BatchUpdate(keys, make([]uint64, len(keys)), &ebpf.BatchOptions{})
	if err != nil {
		return fmt.Errorf("clear listening ports: %w", err)
	}
	return nil
}
