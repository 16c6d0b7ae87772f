// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"io"
	"time"
)

// schema is the version of every JSON document. Fields may be added to a version, never changed or
// taken away.
const schema = 1

// writeJSON writes one indented document.
func writeJSON(w io.Writer, document any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(document)
}

// writeJSONLine writes one document on one line.
func writeJSONLine(w io.Writer, document any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(document)
}

// timestamp is a time in RFC 3339, UTC, to the millisecond, or null where it is zero. What the kernel
// keeps by its own clock comes back with an error of microseconds.
type timestamp time.Time

// MarshalJSON implements json.Marshaler.
func (t timestamp) MarshalJSON() ([]byte, error) {
	if time.Time(t).IsZero() {
		return []byte("null"), nil
	}
	return json.Marshal(time.Time(t).UTC().Round(time.Millisecond).Format(time.RFC3339Nano))
}

// optional is a string, or null where it is empty.
type optional string

// MarshalJSON implements json.Marshaler.
func (s optional) MarshalJSON() ([]byte, error) {
	if s == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(s))
}
