// SPDX-License-Identifier: Apache-2.0

package datapath

import "fmt"

// readFeeds reads which feeds hold, and how. A version that knows no feeds has none.
func (s *source) readFeeds() error {
	m, err := s.need(pinControl)
	if err != nil {
		return err
	}
	raw, r, err := m.single()
	if err != nil {
		return err
	}
	for scope := range s.feeds.Lasting {
		s.feeds.Lasting[scope] = uint32(r.number(raw, fmt.Sprintf("feeds.lasting[%d]", scope)))
		s.feeds.Timed[scope] = uint32(r.number(raw, fmt.Sprintf("feeds.timed[%d]", scope)))
	}
	for slot := range s.feeds.UntilNs {
		s.feeds.UntilNs[slot] = r.number(raw, fmt.Sprintf("feeds.until_ns[%d]", slot))
	}
	return nil
}

// fillFeeds carries the feeds over; what they name comes with the lists, with the same bits.
func (h *heir) fillFeeds() error {
	h.control.Feeds = h.from.feeds
	return h.copyMap(limiterMapFeeds, h.maps.Feeds)
}
