// SPDX-License-Identifier: Apache-2.0

package report

import (
	"io"

	"github.com/synward/synward/pkg/datapath"
	"github.com/synward/synward/pkg/policy"
)

// Services are the services of the policy in force with what was counted of them.
type Services struct {
	Services []datapath.ServiceState
}

// acrossAll stands for a service's name where limits hold across all of them.
const acrossAll = "(all)"

// Text writes a table: a row for each limit of a service, or one without.
func (s Services) Text(w io.Writer) error {
	t := newTable("service", "listen", "admitted", "over", "limit")
	for _, one := range s.Services {
		name, listen, admitted := one.Name, shortListens(one.Listen), count(one.Admitted.Packets)
		if one.Name == "" {
			name, listen, admitted = acrossAll, "-", "-"
		}
		if len(one.Limits) == 0 {
			t.row(name, listen, admitted, "-", "none")
		}
		for _, l := range one.Limits {
			t.row(name, listen, admitted, count(l.Over.Packets), l.Words())
			name, listen, admitted = "", "", ""
		}
	}
	return t.write(w)
}

func shortListens(all []policy.Listen) string {
	return shortList(listens(all))
}

type counterJSON struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

type limitStateJSON struct {
	limitJSON
	// Exceeded is what was over it, whatever was done with that.
	Exceeded counterJSON `json:"exceeded"`
}

type serviceStateJSON struct {
	Name     string           `json:"name"`
	Listen   []string         `json:"listen"`
	Admitted counterJSON      `json:"admitted"`
	Limits   []limitStateJSON `json:"limits"`
}

// JSON writes the document of `services`.
func (s Services) JSON(w io.Writer) error {
	services, global := []serviceStateJSON{}, []limitStateJSON{}
	for _, one := range s.Services {
		limits := []limitStateJSON{}
		for _, l := range one.Limits {
			limits = append(limits, limitStateJSON{newLimitJSON(l.Limit), counterJSON(l.Over)})
		}
		if one.Name == "" {
			global = limits
			continue
		}
		services = append(services, serviceStateJSON{one.Name, listens(one.Listen), counterJSON(one.Admitted), limits})
	}
	return writeJSON(w, struct {
		Schema   int                `json:"schema"`
		Services []serviceStateJSON `json:"services"`
		Global   []limitStateJSON   `json:"global"`
	}{schema, services, global})
}
