// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonicNow is the clock of the data path: CLOCK_MONOTONIC in nanoseconds.
func monotonicNow() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return uint64(ts.Nano())
}

// clockTick is how far bpf_ktime_get_coarse_ns moves at a time.
func clockTick() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return 10 * time.Millisecond
	}
	return time.Duration(ts.Nano())
}

// wallTime turns a time of the data path's clock into one for people.
func wallTime(ns uint64) time.Time {
	now := time.Now()
	return now.Add(time.Duration(int64(ns) - int64(monotonicNow())))
}

// dataTime is the reverse of wallTime. Times before the machine started are 1: long past, not never.
func dataTime(t time.Time) uint64 {
	ns := int64(monotonicNow()) + int64(time.Until(t))
	return uint64(max(ns, 1))
}
