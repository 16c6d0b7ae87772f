// SPDX-License-Identifier: Apache-2.0

package datapath

import "net/netip"

// SSHPeer is where the person who runs this process is logged in from by SSH: the far end of the connection that
// an sshd above this process holds, else the one that SSH_CONNECTION of this process or of one above it names.
// Not valid if there is none. The latter is a hint and no proof: whoever runs a command can set it, and in a tmux
// it may be that of a session long gone.
func SSHPeer() netip.AddrPort {
	// Sessions that cannot be looked at are those of others.
	ops, _ := Operators()
	for _, op := range ops {
		if op.Own {
			return op.Peer
		}
	}
	named, _ := parseSSHConnection(operatorSSH())
	return named.client
}
