# SPDX-License-Identifier: Apache-2.0
"""guest.py KERNEL DISK: boots a disk image whose own systemd runs the test, reboots included, and passes on what it
says. Ends well if the test passed within SYNWARD_BOOT_TIMEOUT seconds (900).

The initramfs only finds the disk: Debian's cloud kernels have its driver as a module. QEMU emulates the processor
(TCG), so this needs no virtualisation and takes minutes: time nothing in here.
"""

import os
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../vm"))
import initramfs  # noqa: E402

INIT = b"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /disk
/bin/busybox --install -s /usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in virtio_pci virtio_blk ext4; do
	modprobe "$module" 2>/dev/null
done
n=0
until [ -b /dev/vda ] || [ $n -ge 100 ]; do
	n=$((n + 1))
	sleep 0.1
done
mount -t ext4 /dev/vda /disk || exec poweroff -f
umount /proc /sys
mount --move /dev /disk/dev
exec switch_root /disk /sbin/init
"""


def build(path, kernel):
    with open(path, "wb") as out:
        archive = initramfs.Archive(out)
        archive.add_device("/dev/console", 5, 1)
        archive.add_bytes("/init", INIT, 0o755)
        archive.add_program("/bin/busybox", initramfs.find_tool("busybox"))
        initramfs.add_modules(archive, kernel, ["virtio_pci", "virtio_blk"])
        archive.close()


def command(kernel, image, disk, log):
    return [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2",
        "-display", "none", "-nodefaults", "-no-user-config",
        "-chardev", "stdio,id=test,signal=off", "-serial", "file:" + log, "-serial", "chardev:test",
        "-drive", f"file={disk},format=raw,if=none,id=disk,cache=unsafe", "-device", "virtio-blk-pci,drive=disk",
        "-kernel", kernel.image, "-initrd", image, "-append",
        "console=ttyS0 root=/dev/vda rw systemd.unit=boot-test.target systemd.show_status=true panic=-1 mitigations=off "
        "net.ifnames=0 nowatchdog rcupdate.rcu_cpu_stall_suppress=1",
    ]  # fmt: skip


def main():
    kernel = initramfs.Kernel(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="synward-boot-") as work:
        image, log = os.path.join(work, "initramfs"), os.path.join(work, "console")
        build(image, kernel)
        qemu = subprocess.Popen(
            command(kernel, image, sys.argv[2], log), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
        )
        timer = threading.Timer(float(os.environ.get("SYNWARD_BOOT_TIMEOUT") or 900), qemu.kill)
        timer.start()
        rebooted = passed = False
        try:
            for line in qemu.stdout:
                line = line.rstrip()
                rebooted = rebooted or line == "BOOT-TEST rebooting"
                passed = passed or line == "BOOT-TEST passed"
                print("  " + line, flush=True)
            qemu.wait()
        finally:
            timer.cancel()
            qemu.kill()
            qemu.wait()
        if not (rebooted and passed):
            with open(log, encoding="utf8", errors="replace") as f:
                print("console:", *(line.rstrip() for line in f.readlines()[-80:]), sep="\n  ")
            sys.exit(f"the test did not pass on {kernel.release}")


main()
