"""A sparse image copied by the driver and by other tools, onto devices that are zero and onto such with old data."""

from __future__ import annotations

import os
import shutil
import stat
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from copy_support import device, make_world
from linstor_un.operations import contents

from lab.hosts import kernel
from lab.hosts.loop import LoopDevice

TARGET = 1.1
MIB = 1 << 20
# Every fourth piece has data; old data is where the image has none.
_PIECE = 16 * MIB
_QEMU = ("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw")
_QEMU_DIRECT = (*_QEMU, "-W", "-m", "16", "-T", "none", "-t", "none")
_NBD_BOUNDED = ("nbdcopy", "--threads=2", "--request-size=1048576")
_DD = ("dd", "status=none")

# None is the driver; source and target are added to the others.
ZERO: dict[str, Optional[tuple[str, ...]]] = {
    "driver": None,
    "qemu-img convert": _QEMU,
    "qemu-img convert --target-is-zero": (*_QEMU, "--target-is-zero"),
    "qemu-img convert, direct, 16 at once": _QEMU_DIRECT,
    "nbdcopy": ("nbdcopy", "--destination-is-zero"),
    "nbdcopy, 2 threads, 1 MiB": (*_NBD_BOUNDED, "--destination-is-zero"),
    "dd conv=sparse": (*_DD, "bs=64k", "conv=sparse,notrunc"),
}
OLD: dict[str, Optional[tuple[str, ...]]] = {
    "driver": None,
    "qemu-img convert": _QEMU,
    "qemu-img convert --target-is-zero": (*_QEMU, "--target-is-zero"),
    "qemu-img convert, direct, 16 at once": _QEMU_DIRECT,
    "nbdcopy": ("nbdcopy",),
    "nbdcopy, 2 threads, 1 MiB": _NBD_BOUNDED,
    "dd": (*_DD, "bs=1M", "conv=notrunc"),
    "dd conv=sparse": (*_DD, "bs=64k", "conv=sparse,notrunc"),
}


@dataclass
class _Result:
    seconds: list[float] = field(default_factory=list)
    right: bool = True


def run(repeat: int, gibibytes: int = 4) -> list[str]:
    """Print a table a place; returns a text for each missed target. Three runs of each are enough."""
    missed = []
    repeat = min(repeat, 3)
    with tempfile.TemporaryDirectory() as directory:
        places = {"disk": Path(directory)}
        if _free_memory() > (2 * gibibytes + 2) << 30:
            places["tmpfs"] = Path(directory) / "tmpfs"
            places["tmpfs"].mkdir()
            kernel.mount("bench", str(places["tmpfs"]), "tmpfs", 0, "mode=755")
        else:
            print("\ncopies on tmpfs are left out: too little memory is free")
        try:
            for place, where in places.items():
                missed += _place(place, where, repeat, gibibytes)
        finally:
            if "tmpfs" in places:
                subprocess.run(["umount", places["tmpfs"]], check=True)
    return missed


def _free_memory() -> int:
    with open("/proc/meminfo") as file:
        line = next(line for line in file if line.startswith("MemAvailable:"))
    return int(line.split()[1]) << 10


def _place(place: str, where: Path, repeat: int, gibibytes: int) -> list[str]:
    size = gibibytes << 30
    missed = []
    with _volume(where, "source", size) as source, _volume(where, "target", size) as target:
        _write(source, size, phase=0)
        for title, tools, old in (("is zero", ZERO, False), ("holds old data", OLD, True)):
            results = {name: _Result() for name, argv in tools.items() if argv is None or shutil.which(argv[0])}
            for _ in range(repeat):
                for name, result in results.items():
                    subprocess.run(["blkdiscard", "-f", target], check=True, stderr=subprocess.DEVNULL)
                    if old:
                        _write(target, size, phase=1)
                    result.seconds.append(_copy(tools[name], source, target, size, not old, where))
                    result.right = result.right and _same(source, target)
            missed += _show(f"{gibibytes} GiB with {gibibytes << 8} MiB of data, {place}, target {title}", results)
    return missed


@contextmanager
def _volume(where: Path, name: str, size: int) -> Iterator[str]:
    file, node = where / f"{name}.volume", where / name
    with open(file, "wb") as new:
        new.truncate(size)
    loop = LoopDevice(file, where)
    os.mknod(node, stat.S_IFBLK | 0o600, loop.device)
    try:
        yield str(node)
    finally:
        node.unlink()
        loop.close()
        file.unlink()


def _write(path: str, size: int, phase: int) -> None:
    """Fill every fourth piece with bytes that no tool can make smaller."""
    data = os.urandom(_PIECE)
    with open(path, "r+b", buffering=0) as file:
        for start in range(phase * _PIECE, size, 4 * _PIECE):
            file.seek(start)
            file.write(data)
        os.fsync(file.fileno())


def _copy(argv: Optional[tuple[str, ...]], source: str, target: str, size: int, zero: bool, var: Path) -> float:
    """Return the seconds until everything is on stable storage; a tool that fails took for ever."""
    if argv is None:
        world = make_world(var)
        began = time.perf_counter()
        contents.copy_device(world, device(source, size), device(target, size, zero))
        return time.perf_counter() - began
    ends = [f"if={source}", f"of={target}"] if argv[0] == "dd" else [source, target]
    began = time.perf_counter()
    failed = subprocess.call([*argv, *ends], stderr=subprocess.DEVNULL) or subprocess.call(["sync", target])
    return float("inf") if failed else time.perf_counter() - began


def _same(source: str, target: str) -> bool:
    """Compare the files behind two volumes, whose holes need no reading."""
    ends = [f"{source}.volume", f"{target}.volume"]
    return subprocess.call(["qemu-img", "compare", "-f", "raw", "-F", "raw", *ends], stdout=subprocess.DEVNULL) == 0


def _show(title: str, results: dict[str, _Result]) -> list[str]:
    took = {name: statistics.median(result.seconds) for name, result in results.items()}
    best = min(seconds for name, seconds in took.items() if results[name].right)
    print(f"\n{title}: seconds, to the fastest correct one")
    for name, seconds in took.items():
        verdict = "" if results[name].right else "  WRONG: not the bytes of the source"
        print(f"{name:40}{seconds:8.2f}{seconds / best:8.2f}{verdict}")
    mine = took["driver"] / best
    if mine > TARGET or not results["driver"].right:
        return [f"{title}: {mine:.2f}, target {TARGET}"]
    return []
