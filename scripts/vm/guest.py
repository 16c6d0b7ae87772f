# SPDX-License-Identifier: Apache-2.0
"""Boots a kernel in QEMU with an initramfs of jobs, and tells what the jobs printed, how each ended
and what the kernel complained about. It knows nothing of Go tests.

QEMU emulates the processor (TCG), so this needs no virtualisation and also runs inside a VM or a
container. Everything is five to ten times slower than on the machine itself: measure nothing in here.

Settings, all optional:
    SYNWARD_VM_CPUS      virtual processors (2)
    SYNWARD_VM_MEMORY    MiB of memory (1024 and three times the initramfs)
    SYNWARD_VM_TIMEOUT   seconds for one boot with all its jobs (3600)
    SYNWARD_VM_MODULES   further kernel modules that the guest is to have
    SYNWARD_VM_QEMU      further arguments for QEMU
    SYNWARD_VM_OUT       1: write the files that jobs hand out (see write_file)
    SYNWARD_TEST_*       handed to the jobs as they are
"""

import base64
import binascii
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading

import initramfs

REPOSITORY = os.path.dirname(os.path.dirname(initramfs.HERE))

COMPLAINT = re.compile(
    r"WARNING: |BUG: |Oops|kernel BUG at|Kernel panic|general protection fault, |UBSAN: |KASAN: "
    r"|unregister_netdevice: waiting for|INFO: task .* blocked for more than|detected stall"
)


class Job:
    """One program to run in the guest, and after the boot how it went."""

    def __init__(self, name, directory, binary, arguments=()):
        self.name = name
        self.directory = directory
        self.source = os.path.join(REPOSITORY, directory)
        self.binary = binary
        self.arguments = list(arguments)
        self.status = None  # exit status; None: it did not end
        self.begun = False


class Guest:
    """One boot. on_line(job, text) gets every line that a job prints, without its end."""

    def __init__(self, kernel, jobs, on_line):
        self.kernel = kernel
        self.jobs = {job.name: job for job in jobs}
        self.on_line = on_line
        self.token = "@" + secrets.token_hex(8)
        self.running = None
        self.up = self.down = self.timed_out = False
        self.complaints = []  # lines of the kernel log, each with the name of the job before it

    def run(self):
        """Boots, returns when the guest is off or the time is over."""
        directory = tempfile.mkdtemp(prefix="synward-vm-")
        try:
            image = os.path.join(directory, "initramfs")
            initramfs.build(image, self.kernel, self.jobs.values(), self._environment())
            log = os.path.join(directory, "kernel.log")
            self._boot(image, log)
            self._read_log(log)
        finally:
            shutil.rmtree(directory)

    def _environment(self):
        environment = {k: v for k, v in os.environ.items() if k.startswith("SYNWARD_TEST_")}
        environment.update(
            SYNWARD_VM="1",
            SYNWARD_VM_OUT=os.environ.get("SYNWARD_VM_OUT", ""),
            SYNWARD_VM_TOKEN=self.token,
            SYNWARD_VM_PRELOAD=" ".join(initramfs.PRELOAD),
        )
        return environment

    def _command(self, image, log):
        size = os.path.getsize(image) // (1 << 20)
        memory = os.environ.get("SYNWARD_VM_MEMORY") or str(1024 + 3 * size)
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", memory]
        command += ["-smp", os.environ.get("SYNWARD_VM_CPUS") or "2"]
        command += ["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot"]
        command += ["-chardev", "stdio,id=jobs,signal=off", "-serial", "file:" + log, "-serial", "chardev:jobs"]
        # eth0 and eth1 are two ends of one cable: a real driver for native XDP.
        for nic in ("0", "1"):
            command += ["-netdev", f"hubport,id=net{nic},hubid=0"]
            command += ["-device", f"virtio-net-pci,netdev=net{nic},romfile="]
        command += ["-kernel", self.kernel.image, "-initrd", image, "-append"]
        # A stall or a soft lockup means nothing at this speed; a kernel that hangs meets the time limit.
        command += [
            "console=ttyS0 loglevel=7 log_buf_len=4M panic=-1 oops=panic mitigations=off net.ifnames=0 "
            "nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
        ]
        return command + shlex.split(os.environ.get("SYNWARD_VM_QEMU", ""))

    def _boot(self, image, log):
        errors = tempfile.TemporaryFile("w+")
        qemu = subprocess.Popen(
            self._command(image, log), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )
        timer = threading.Timer(float(os.environ.get("SYNWARD_VM_TIMEOUT") or 3600), self._expire, [qemu])
        timer.start()
        try:
            self._read_output(qemu.stdout)
            qemu.wait()
        finally:
            timer.cancel()
            qemu.kill()
            qemu.wait()
            errors.seek(0)
            # The cable between the two network cards ends nowhere else, and QEMU warns of that.
            sys.stderr.writelines(e for e in errors if "not connected to host network" not in e)

    def _expire(self, qemu):
        self.timed_out = True
        qemu.kill()

    def _read_output(self, stream):
        blank = 0  # empty lines held back: the guest puts one before each mark
        for raw in stream:
            line = raw.decode("utf8", "replace").rstrip("\r\n")
            if line.startswith(self.token + " "):
                self._pass_on([""] * (blank - 1))
                blank = 0
                self._mark(line.split()[1:])
            elif line == "":
                blank += 1
            else:
                self._pass_on([""] * blank + [line])
                blank = 0

    def _pass_on(self, lines):
        for line in lines:
            if line.startswith("VMFILE "):
                line = write_file(line)
            self.on_line(self.running, line)

    def _mark(self, words):
        if words[0] == "up":
            self.up = True
        elif words[0] == "down":
            self.down = True
        elif words[0] == "begin":
            self.running = self.jobs[words[1]]
            self.running.begun = True
        elif words[0] == "end":
            self.jobs[words[1]].status = int(words[2])
            self.running = None

    def _read_log(self, log):
        try:
            with open(log, encoding="utf8", errors="replace") as f:
                lines = [line.rstrip() for line in f]
        except FileNotFoundError:
            return  # QEMU did not start; it has said why
        job, first = "boot", None
        for number, line in enumerate(lines):
            begun = re.search(r"synward-vm: begin (\S+)", line)
            if begun:
                job = begun.group(1)
            elif COMPLAINT.search(line):
                self.complaints.append((job, line))
                first = number if first is None else first
        if first is None and not self.up:
            first = max(0, len(lines) - 15)
        if first is not None:
            print("\nkernel log:", *lines[first : first + 60], sep="\n  ", flush=True)


def write_file(line):
    """Writes what a job hands out as a line `VMFILE PATH BASE64`; PATH is in the repository, nowhere else.
    Returns what to show in place of the line."""
    words = line.split()
    if len(words) not in (2, 3):
        return f"vm: malformed line: {line[:60]}"
    path, encoded = words[1], (words[2:] or [""])[0]
    if os.environ.get("SYNWARD_VM_OUT", "") in ("", "0"):
        return f"vm: {path} not written: SYNWARD_VM_OUT is not set"
    target = os.path.realpath(os.path.join(REPOSITORY, path))
    parts = path.split("/")
    inside = target.startswith(os.path.realpath(REPOSITORY) + "/")
    if os.path.isabs(path) or ".." in parts or parts[0] == ".git" or not inside or os.path.isdir(target):
        return f"vm: {path} not written: not a file in the repository"
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error as err:
        return f"vm: {path} not written: {err}"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "wb") as f:
        f.write(data)
    return f"vm: wrote {path}, {len(data)} bytes"
