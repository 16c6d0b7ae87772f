// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
)

// Version says which build this is.
type Version struct {
	Version string
	Go      string
	Arch    string
}

// Text writes one line.
func (v Version) Text(w io.Writer) error {
	_, err := fmt.Fprintf(w, "synward %s (%s, linux/%s)\n", v.Version, v.Go, v.Arch)
	return err
}

// JSON writes the document of `version`.
func (v Version) JSON(w io.Writer) error {
	return writeJSON(w, struct {
		Schema  int    `json:"schema"`
		Version string `json:"version"`
		Go      string `json:"go"`
		Arch    string `json:"arch"`
	}{schema, v.Version, v.Go, v.Arch})
}
