// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"slices"

	"github.com/spf13/cobra"

	"github.com/synward/synward/pkg/state"
)

// logDirVariable is the environment variable that stands for state.AuditDir.
const logDirVariable = "SYNWARD_LOG_DIR"

// readingCommands change nothing: recorder lets them change nothing. A command that is in neither list is taken
// for one that changes.
func readingCommands() []string {
	return []string{
		"synward", "status", "policy", "services", "allow", "allow list", "block", "block list", "feed", "feed list", "sources", "check", "stats",
		"doctor", "history", "version", "help", "completion", "completion bash", "completion fish", "completion powershell",
		"completion zsh",
	}
}

// changingCommands leave a line in the audit log for what they change.
func changingCommands() []string {
	return []string{
		"attach", "detach", "apply", "confirm", "rollback", "limit", "allow add", "allow rm", "block add", "block rm", "feed load", "feed rm", "forget",
		"save", "restore", "upgrade",
	}
}

// readsOnly: the command is one of those that change nothing.
func readsOnly(cmd *cobra.Command) bool { return slices.Contains(readingCommands(), name(cmd)) }

// auditDir is where the log of this instance is.
func (e *env) auditDir() string {
	return state.AuditDirOf(cmp.Or(e.getenv(logDirVariable), state.AuditDir), e.pinDir)
}

// record writes down what a command changed. A log that cannot be written is said and undoes nothing.
func (e *env) record(r *recorder, args []string, code int, failed error) {
	if !r.made {
		return
	}
	entry := state.AuditEntry{
		Time: r.at, UID: e.uid, SudoUser: e.getenv("SUDO_USER"), Command: args, PinDir: e.pinDir,
		GenerationBefore: r.before, GenerationAfter: r.after, Exit: code, Error: oneLine(failed),
	}
	if peer := r.SSHPeer(); peer.IsValid() {
		entry.SSHPeer = peer.String()
	}
	if err := state.AppendAudit(e.auditDir(), entry); err != nil {
		e.say("warning: what was changed stays so, but is missing in the history: %s", oneLine(err))
	}
}
