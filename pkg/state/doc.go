// SPDX-License-Identifier: Apache-2.0

// Package state keeps what must outlive a reboot: interfaces, policies and lists, as files. It knows how they
// are written so that a kill or a full disk leaves the old state or the new one, and how they are brought back.
// It must not know commands, nor how anything is shown.
package state
