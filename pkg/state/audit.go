// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/synward/synward/pkg/datapath"
)

// AuditDir is where the audit logs are unless SYNWARD_LOG_DIR says otherwise.
const AuditDir = "/var/log/synward"

const (
	auditFile   = "audit.jsonl"
	auditSchema = 1
	// maxAuditCommand is how many bytes of a command are kept: a thousand prefixes on a line help nobody.
	maxAuditCommand = 4096
	// maxAuditError is the same for what went wrong.
	maxAuditError = 1024
)

// AuditEntry is one change: a line of audit.jsonl.
type AuditEntry struct {
	Schema int `json:"schema"`
	// Time is when the change was made, as long as nobody else could make one. Lines may stand in another order.
	Time time.Time `json:"time"`
	// UID is the user that the command ran as, SudoUser the one behind sudo(8) as sudo tells it, empty without.
	UID      int    `json:"uid"`
	SudoUser string `json:"sudo_user,omitempty"`
	// SSHPeer is the address and port that whoever typed it is logged in from, empty if he is not by SSH.
	SSHPeer string `json:"ssh_peer,omitempty"`
	// Command is what was typed behind the program's name. ArgsLeftOut counts the arguments at its end that
	// were too many to keep.
	Command     []string `json:"command"`
	ArgsLeftOut int      `json:"args_left_out,omitempty"`
	PinDir      string   `json:"pin_dir"`
	// GenerationBefore and GenerationAfter are the policy's; nil where nothing was attached.
	GenerationBefore *uint16 `json:"generation_before"`
	GenerationAfter  *uint16 `json:"generation_after"`
	// Exit is the exit code. Where it is not 0 the change may be half made, and Error says why.
	Exit  int    `json:"exit"`
	Error string `json:"error,omitempty"`
}

// AuditDirOf is the directory of an instance's audit log below base: base itself for the default pin directory,
// for any other a directory that is named as its lock file is.
func AuditDirOf(base, pinDir string) string {
	return filepath.Join(base, datapath.InstanceName(pinDir))
}

// AppendAudit writes one line to the log in dir and makes both where they are not there. What another command
// appends at the same time is another line. It returns when the line is on the disk.
func AppendAudit(dir string, e AuditEntry) error {
	line, err := auditLine(e)
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	path := filepath.Join(dir, auditFile)
	// Neither a link nor a pipe that somebody put there.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no ordinary file; remove it", path)
	}
	if err == nil && endsTorn(f, info.Size()) {
		line = append([]byte{'\n'}, line...)
	}
	if err == nil {
		_, err = f.Write(line)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	return nil
}

// endsTorn: the last line was cut short, by a full disk for example; what is appended to it would be lost with
// it. Should another command append in between, an empty line is the worst.
func endsTorn(f io.ReaderAt, size int64) bool {
	last := []byte{'\n'}
	if size > 0 {
		if _, err := f.ReadAt(last, size-1); err != nil {
			return true
		}
	}
	return last[0] != '\n'
}

// auditLine is the entry as it stands in the log.
func auditLine(e AuditEntry) ([]byte, error) {
	e.Schema = auditSchema
	e.Time = e.Time.UTC()
	kept, bytes := 0, 0
	for _, arg := range e.Command {
		if bytes += len(arg) + 1; bytes > maxAuditCommand {
			break
		}
		kept++
	}
	e.Command, e.ArgsLeftOut = e.Command[:kept:kept], len(e.Command)-kept
	if e.Command == nil {
		e.Command = []string{}
	}
	e.Error = e.Error[:min(len(e.Error), maxAuditError)]
	line, err := json.Marshal(e)
	return append(line, '\n'), err
}
