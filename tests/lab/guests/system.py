"""What a guest's operating system is made of: a kernel, the modules for its devices, busybox and the agent.

prepare.sh takes them from Debian packages and keeps them in the virtual environment; nothing of it is installed.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Union

PLACE = Path(sys.prefix) / "guests" / "system"
INIT = Path(__file__).with_name("init.sh")
# virtio_pci brings a disk and the agent's channel to life; what a kernel has built in has no file
_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_balloon", "crc32c_generic", "ext4")
_APPLETS = ("sh", "awk", "cat", "dd", "echo", "insmod", "ls", "mkdir", "mount", "mv", "sleep", "sync")


@dataclass(frozen=True)
class GuestSystem:
    """The parts in a directory: kernel, busybox, modules/ in the order of loading, agent/ with its libraries."""

    directory: Path = PLACE

    @property
    def kernel(self) -> Path:
        return self.directory / "kernel"

    def missing(self) -> str:
        """Return in one sentence why a guest cannot have an operating system, "" when it can."""
        if self.kernel.exists():
            return ""
        return f"a guest's kernel and agent are not in {self.directory}: ./tests/run downloads them where it can"

    def initramfs(self) -> bytes:
        """Return the archive that the kernel unpacks: busybox, the agent, modules, and init.sh as first process."""
        files = {"init": INIT.read_bytes(), "bin/busybox": (self.directory / "busybox").read_bytes()}
        for module in sorted((self.directory / "modules").iterdir()):
            files[f"lib/modules/{module.name}"] = module.read_bytes()
        for part in sorted((self.directory / "agent").iterdir()):
            # the dynamic loader is found by the path that is written into the agent
            folder = "bin" if part.name == "qemu-ga" else "lib64" if part.name.startswith("ld-") else "lib"
            files[f"{folder}/{part.name}"] = part.read_bytes()
        links = {f"bin/{applet}": "busybox" for applet in _APPLETS}
        return b"".join(_archive(("dev", "lib/modules", "mnt", "proc", "run", "sys", "tmp", "var"), files, links))


def _archive(folders: tuple[str, ...], files: dict[str, bytes], links: dict[str, str]) -> Iterator[bytes]:
    """Yield a cpio archive of the form "newc"."""
    needed = {str(parent) for name in (*folders, *files, *links) for parent in [Path(name), *Path(name).parents]}
    for folder in sorted(needed - {".", *files, *links}):
        yield _entry(folder, stat.S_IFDIR | 0o755, b"")
    for name, data in files.items():
        yield _entry(name, stat.S_IFREG | 0o755, data)
    for name, target in {**links, "var/run": "../run"}.items():
        yield _entry(name, stat.S_IFLNK | 0o777, target.encode())
    yield _entry("TRAILER!!!", 0, b"")


def _entry(name: str, mode: int, data: bytes) -> bytes:
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name.encode() + b"\0"
    return head.ljust(-(-len(head) // 4) * 4, b"\0") + data.ljust(-(-len(data) // 4) * 4, b"\0")


def gather(unpacked: Union[str, Path], target: Union[str, Path]) -> None:
    """Take the parts of a guest's system from unpacked packages.

    Raises:
        FileNotFoundError: a package lacks a part, or this machine a library of the agent.
    """
    unpacked, target = Path(unpacked), Path(target)
    made = target.with_name(f"{target.name}.{os.getpid()}")
    (made / "modules").mkdir(parents=True)
    (made / "agent").mkdir()
    shutil.copy(_one(unpacked, "boot/vmlinuz-*"), made / "kernel")
    shutil.copy(_one(unpacked, "**/bin/busybox"), made / "busybox")
    for number, (name, data) in enumerate(_modules(unpacked).items()):
        (made / "modules" / f"{number:02d}-{name}.ko").write_bytes(data)
    agent = _one(unpacked, "**/sbin/qemu-ga")
    for part in [agent, *_libraries(agent)]:
        shutil.copy(part, made / "agent" / part.name)
    shutil.rmtree(target, ignore_errors=True)
    made.rename(target)


def _one(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no {pattern} in the packages for guests")
    return found[0]


def _modules(unpacked: Path) -> dict[str, bytes]:
    """Return the modules that a guest loads, by name, each after those that it depends on."""
    paths = {path.name.split(".ko")[0].replace("-", "_"): path for path in unpacked.glob("**/lib/modules/**/*.ko*")}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name not in paths:
            return
        data = _unpacked(paths[name])
        for names in re.findall(rb"\0depends=([^\0]*)\0", data):
            for needed in names.decode().split(","):
                load(needed.replace("-", "_"))
        loaded[name] = data

    for name in _MODULES:
        load(name)
    return loaded


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc", str(path)], check=True, stdout=subprocess.PIPE).stdout
    return data


def _libraries(program: Path) -> Iterator[Path]:
    """Yield what a program is linked with, from this machine: QEMU needs the same libraries."""
    listed = subprocess.run(["ldd", str(program)], check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in listed.splitlines():
        words = line.split()
        if "not found" in line:
            raise FileNotFoundError(f"the guest agent needs {words[0]}, which this machine lacks")
        for word in words:
            if word.startswith("/"):
                yield Path(word)

