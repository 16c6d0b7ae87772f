// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/synward/synward/pkg/state"
)

// History is what was changed, oldest first.
type History struct {
	Now     time.Time
	Entries []state.AuditEntry
}

// longestCommand is how much of a command the table shows; JSON has all that is kept.
const longestCommand = 100

// Text writes a table.
func (h History) Text(w io.Writer) error {
	t := newTable("when", "who", "from", "policy", "result", "command")
	for _, e := range h.Entries {
		t.row(e.Time.UTC().Format("2006-01-02 15:04:05Z"), who(e), orDash(e.SSHPeer), generations(e), result(e), command(e))
	}
	return t.write(w)
}

// who is the person as far as the log knows him.
func who(e state.AuditEntry) string {
	switch {
	case e.SudoUser != "":
		return e.SudoUser
	case e.UID == 0:
		return "root"
	}
	return fmt.Sprintf("uid %d", e.UID)
}

// generations are those of the policy before and after; one where it stayed the same.
func generations(e state.AuditEntry) string {
	text := func(g *uint16) string {
		if g == nil {
			return "-"
		}
		return strconv.Itoa(int(*g))
	}
	before, after := text(e.GenerationBefore), text(e.GenerationAfter)
	if before == after {
		return before
	}
	return before + " to " + after
}

func result(e state.AuditEntry) string {
	if e.Exit == 0 {
		return "done"
	}
	return fmt.Sprintf("exit code %d", e.Exit)
}

// command is what was typed, with quotes where a shell would need them.
func command(e state.AuditEntry) string {
	words := make([]string, len(e.Command))
	for i, word := range e.Command {
		words[i] = word
		if word == "" || strings.ContainsAny(word, " \t\n\"'\\$&|;<>()*?`") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	text := strings.Join(words, " ")
	if runes := []rune(text); len(runes) > longestCommand {
		text = string(runes[:longestCommand]) + " ..."
	}
	if e.ArgsLeftOut > 0 {
		text += fmt.Sprintf(" (and %d more arguments)", e.ArgsLeftOut)
	}
	return text
}

type historyJSON struct {
	Time             time.Time `json:"time"`
	UID              int       `json:"uid"`
	SudoUser         optional  `json:"sudo_user"`
	SSHPeer          optional  `json:"ssh_peer"`
	Command          []string  `json:"command"`
	ArgsLeftOut      int       `json:"args_left_out"`
	PinDir           string    `json:"pin_dir"`
	GenerationBefore *uint16   `json:"generation_before"`
	GenerationAfter  *uint16   `json:"generation_after"`
	Exit             int       `json:"exit"`
	Error            optional  `json:"error"`
}

// JSON writes the document of `history`. Times are as the log has them, to the nanosecond.
func (h History) JSON(w io.Writer) error {
	rows := []historyJSON{}
	for _, e := range h.Entries {
		rows = append(rows, historyJSON{
			Time: e.Time.UTC(), UID: e.UID, SudoUser: optional(e.SudoUser), SSHPeer: optional(e.SSHPeer),
			Command: e.Command, ArgsLeftOut: e.ArgsLeftOut, PinDir: e.PinDir,
			GenerationBefore: e.GenerationBefore, GenerationAfter: e.GenerationAfter, Exit: e.Exit, Error: optional(e.Error),
		})
	}
	return writeJSON(w, struct {
		Schema  int           `json:"schema"`
		Changes []historyJSON `json:"changes"`
	}{schema, rows})
}
