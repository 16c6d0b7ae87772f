# SPDX-License-Identifier: Apache-2.0
"""Builds the initramfs of a test guest: busybox, a few tools of this machine with their shared
libraries, the kernel modules that tests need, and the jobs to run. It knows nothing of QEMU.

The archive is "newc" cpio (Documentation/driver-api/early-userspace/buffer-format.rst), not
compressed: the guest would spend longer on unpacking it than QEMU spends on handing it over.
"""

import gzip
import lzma
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))

# Tools of this machine that the guest gets where this machine has them.
# Its shell is among them, because busybox's prefers applets of its own, so its own ip, to these.
TOOLS = (
    "sh ip tc ss bridge nsenter unshare ethtool nft conntrack bpftool modprobe rmmod sysctl mount umount"
).split()

# Modules that are in the guest; the kernel loads them on demand, as on any system.
MODULES = """
    veth dummy tun ifb bridge bonding 8021q vrf macvlan ipvlan vxlan geneve
    wireguard ipip sit ip_gre ip_tunnel ip6_gre ip6_tunnel ip_vti
    xfrm_interface xfrm_user xfrm_algo esp4 authenc echainiv seqiv drbg jitterentropy_rng hmac cbc ctr sha256_generic sha512_generic
    sch_ingress sch_fq sch_fq_codel sch_htb sch_netem cls_bpf cls_matchall act_bpf act_mirred
    nf_conntrack nf_conntrack_netlink nf_nat nf_tables nft_ct nft_nat nft_masq nft_redir nft_chain_nat
    nft_limit nft_connlimit nft_counter nft_reject_inet nft_log nft_fib_inet nft_synproxy nft_compat
    tcp_diag udp_diag inet_diag virtio_pci virtio_net
""".split()

# Modules that are loaded before the first job: tests expect their devices or sysctls to be there.
PRELOAD = ("virtio_pci", "virtio_net", "veth", "sch_ingress", "cls_bpf", "nf_conntrack", "tcp_diag")


class Kernel:
    """A kernel as its Debian packages unpack: an image and a directory of modules."""

    def __init__(self, path):
        self.path = os.path.realpath(path)
        for root in (self.path, os.path.join(self.path, "usr")):
            modules = os.path.join(root, "lib/modules")
            if os.path.isdir(modules):
                break
        else:
            raise FileNotFoundError(f"{path}: no lib/modules and no usr/lib/modules in it")
        self.release = os.listdir(modules)[0]
        self.modules = os.path.join(modules, self.release)
        if not os.path.exists(os.path.join(self.modules, "modules.dep")):
            subprocess.check_call([find_tool("depmod"), "-b", root, self.release])
        images = (os.path.join(self.path, "boot/vmlinuz-" + self.release), os.path.join(self.modules, "vmlinuz"))
        self.image = next((i for i in images if os.path.exists(i)), None)
        if self.image is None:
            raise FileNotFoundError(f"{path}: no kernel image in it")

    def select(self, wanted):
        """Returns the module files for the wanted names and for all that these depend on."""
        depends = {}
        with open(os.path.join(self.modules, "modules.dep"), encoding="utf8") as f:
            for line in f:
                module, _, rest = line.partition(":")
                depends[module] = rest.split()
        by_name = {module_name(m): m for m in depends}
        files = []
        for name in wanted:
            module = by_name.get(name.replace("-", "_"))
            if module:
                files += [m for m in [module, *depends[module]] if m not in files]
        return files


class Archive:
    """A cpio archive in the making. Directories above an entry are made when it is added."""

    # The guest has one tree below /usr, whether or not this machine has merged its own.
    MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}

    def __init__(self, out):
        self.out = out
        self.names = set()
        for name, target in self.MERGED.items():
            self.add_directory(target)
            self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def add_directory(self, path):
        name = self._guest_name(path)
        if name and name not in self.names:
            self.add_directory(os.path.dirname(name))
            self._entry(name, stat.S_IFDIR | 0o755, b"")

    def add_bytes(self, path, data, mode=0o644):
        name = self._guest_name(path)
        if name not in self.names:
            self.add_directory(os.path.dirname(name))
            self._entry(name, stat.S_IFREG | mode, data)

    def add_device(self, path, major, minor):
        self.add_directory(os.path.dirname(path))
        self._entry(self._guest_name(path), stat.S_IFCHR | 0o600, b"", (major, minor))

    def add_file(self, path, source):
        with open(source, "rb") as f:
            self.add_bytes(path, f.read(), stat.S_IMODE(os.stat(source).st_mode))

    def add_tree(self, path, source):
        """Adds a directory with all that is in it; links are followed."""
        self.add_directory(path)
        for base, directories, files in os.walk(source, followlinks=True):
            to = os.path.normpath(os.path.join(path, os.path.relpath(base, source)))
            for name in directories:
                self.add_directory(os.path.join(to, name))
            for name in files:
                self.add_file(os.path.join(to, name), os.path.join(base, name))

    def add_program(self, path, source):
        """Adds an executable, and the shared libraries it is linked against."""
        self.add_file(path, source)
        listed = subprocess.run(["ldd", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for library in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed.stdout, re.M):
            self.add_file(library, library)

    def close(self):
        self._entry("TRAILER!!!", 0, b"")

    def _guest_name(self, path):
        name = os.path.normpath("/" + path).lstrip("/")
        first, _, rest = name.partition("/")
        return os.path.join(self.MERGED[first], rest) if rest and first in self.MERGED else name

    def _entry(self, name, mode, data, device=(0, 0)):
        self.names.add(name)
        raw = name.encode() + b"\0"
        fields = (len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        header = b"070701" + b"".join(b"%08X" % f for f in fields)
        for part in (header + raw, data):
            self.out.write(part + b"\0" * (-len(part) % 4))


def module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


def find_tool(name):
    """Returns the path of a command, also where root's directories are not in PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def read_module(path):
    with open(path, "rb") as f:
        data = f.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        return gzip.decompress(data)
    if path.endswith(".zst"):
        return subprocess.run(["zstd", "-dc"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


def add_modules(archive, kernel, wanted):
    """Adds modules, unpacked, with an index made for just these: so modprobe and the kernel find them."""
    with tempfile.TemporaryDirectory() as stage:
        top = os.path.join(stage, "lib/modules", kernel.release)
        os.makedirs(top)
        for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
            if os.path.exists(os.path.join(kernel.modules, name)):
                shutil.copy(os.path.join(kernel.modules, name), top)
        for module in kernel.select(wanted):
            to = os.path.join(top, re.sub(r"\.ko\..*$", ".ko", module))
            os.makedirs(os.path.dirname(to), exist_ok=True)
            with open(to, "wb") as f:
                f.write(read_module(os.path.join(kernel.modules, module)))
        subprocess.check_call([find_tool("depmod"), "-b", stage, kernel.release])
        archive.add_tree("/lib/modules/" + kernel.release, top)


def add_system(archive, kernel, environment):
    """Adds all that does not depend on the jobs."""
    archive.add_device("/dev/console", 5, 1)
    archive.add_device("/dev/null", 1, 3)
    archive.add_program("/init", os.path.join(HERE, "init"))
    archive.add_program("/bin/busybox", find_tool("busybox"))
    for name in TOOLS:
        source = find_tool(name)
        if source:
            # kmod and its like tell by their name what they are, so each gets a copy.
            archive.add_program(("/bin/" if name == "sh" else "/usr/sbin/") + name, os.path.realpath(source))
    archive.add_bytes("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    archive.add_bytes("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    archive.add_bytes("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    add_modules(archive, kernel, MODULES + os.environ.get("SYNWARD_VM_MODULES", "").split())
    exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in sorted(environment.items()))
    archive.add_bytes("/vm/env", exports.encode())


def add_jobs(archive, jobs):
    """Adds the binaries and testdata of jobs and the script that runs them one after the other."""
    lines = []
    for number, job in enumerate(jobs):
        binary = f"/vm/job{number}/{os.path.basename(job.binary)}"
        archive.add_program(binary, job.binary)
        directory = os.path.normpath("/src/" + job.directory)
        archive.add_directory(directory)
        testdata = os.path.join(job.source, "testdata")
        if os.path.isdir(testdata):
            archive.add_tree(directory + "/testdata", testdata)
        lines.append(shlex.join(["job", job.name, directory, binary, *job.arguments]))
    archive.add_bytes("/vm/jobs", "\n".join(lines).encode() + b"\n")


def build(path, kernel, jobs, environment):
    """Writes the initramfs for jobs on kernel to path. jobs have name, directory (in the repository),
    source (that directory on this machine), binary and arguments; environment is that of the jobs."""
    with open(path, "wb") as out:
        archive = Archive(out)
        add_system(archive, kernel, environment)
        add_jobs(archive, jobs)
        archive.close()
