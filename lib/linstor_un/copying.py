"""Which tool copies, and with which options: decided from facts, nothing is touched here.

    source   target                 tool
    device   known zero             qemu-img convert -n --target-is-zero
    device   may hold old data      qemu-img convert -n: writes zeroes as discards, so thin stays thin
    file     as a device            qemu-img convert -n from its format
    stream   known zero             dd conv=sparse
    stream   may hold old data      dd: nothing may be skipped

On a target that is not known to be zero, skipping zeroes leaves what was there before; so `conv=sparse` and
`--target-is-zero` are for known zeroes only, and the rest of such a target is zeroed.

qemu-img with 16 requests in flight and without the page cache was the fastest on tmpfs and next to it on a disk;
nbdcopy, faster on an idle disk, took several times as long where the processors were busy.
"""

from __future__ import annotations

from typing import NamedTuple

from .errors import Refused
from .units import Bytes

# qemu-img >= 5.1; older ones write the zeroes as discards.
TARGET_IS_ZERO = "target-is-zero"


class End(NamedTuple):
    """A device or file as it is on its host: `actual` is its real size in bytes, `block` whether it is a device.

    `asked` is what was asked for when it was made; LINSTOR's pools round up, so that `actual` is often more.
    """

    path: str
    actual: Bytes
    block: bool
    asked: Bytes


class Plan(NamedTuple):
    """A copying command, and the part of the target, in bytes, that has to be zeroed after it."""

    argv: tuple[str, ...]
    zero_from: Bytes = Bytes(0)
    zero_length: Bytes = Bytes(0)


def copied_length(source: End, target: End) -> Bytes:
    """Return how many bytes of a device to copy.

    A guest uses its device up to the very end (a backup partition table, a grown file system), so that
    all of it is copied where it fits, and never less than what was asked for. Raises Refused when the target
    cannot hold what was asked for of the source, or a device is smaller than it should be.
    """
    for end in (source, target):
        if end.actual < end.asked:
            raise Refused(f"{end.path} has {end.actual} bytes instead of {end.asked}; is its volume still growing?")
    if target.actual < source.asked:
        raise Refused(f"{target.path} has {target.actual} bytes, too few for the {source.asked} of {source.path}")
    return min(source.actual, target.actual)


def device_copy(source: End, target: End, zero: bool, tools: frozenset[str]) -> Plan:
    """Return how to copy a device to another one of the same host.

    Arguments: zero, whether the target is known to be zero; tools, what the host's qemu-img can do.
    Raises Refused as `copied_length` does.
    """
    length = copied_length(source, target)
    options = _reading(source, length)
    return Plan(_convert(options, target, zero, tools), *_rest(length, target, zero))


def packing(source: End, length: Bytes, file: str) -> tuple[str, ...]:
    """Return the command that writes the first so many bytes of a device to a new qcow2 file; zeroes take no space."""
    return ("qemu-img", "convert", "-m", "16", *_reading(source, length), "-O", "qcow2", file)


def conversion(source: str, form: str, virtual: Bytes, target: End, zero: bool, tools: frozenset[str]) -> Plan:
    """Return how to write an image file to a device as raw bytes.

    Arguments: source, its path; form, qemu's name of its format, which is never guessed by qemu; virtual, in bytes.
    Raises Refused when the image is larger than what was asked for of the target.
    """
    if virtual > target.asked:
        raise Refused(f"the image has {virtual} bytes, more than the {target.asked} of its volume; give a greater SIZE")
    return Plan(_convert(["-f", form, source], target, zero, tools), *_rest(virtual, target, zero))


def reception(target: str, zero: bool) -> tuple[str, ...]:
    """Return the command that writes its stdin to a device or file, and says on stderr how many bytes that were."""
    if zero:
        # Finer blocks would cost time, coarser ones space: 64 KiB is the chunk of LINSTOR's thin pools.
        return ("dd", f"of={target}", "bs=64k", "iflag=fullblock", "conv=notrunc,sparse,fsync")
    return ("dd", f"of={target}", "bs=1M", "iflag=fullblock", "conv=notrunc,fsync")


def rest_of(written: Bytes, target: End, zero: bool) -> Plan:
    """Return how to make a target end in zeroes after so many bytes of it have been written."""
    return Plan(("true",), *_rest(written, target, zero))


def seconds_for(size: Bytes) -> float:
    """Return a time limit for work on so many bytes: generous, it only has to end what hangs."""
    return 900.0 + size / (4 * 1024 * 1024)


def _reading(source: End, length: Bytes) -> list[str]:
    options = ["-T", "none"] if source.block else []
    if length == source.actual:
        return [*options, "-f", "raw", source.path]
    driver = "host_device" if source.block else "file"
    name = source.path.replace(",", ",,")
    return [*options, "--image-opts", f"driver=raw,size={length},file.driver={driver},file.filename={name}"]


def _convert(source: list[str], target: End, zero: bool, tools: frozenset[str]) -> tuple[str, ...]:
    skip = ["--target-is-zero"] if zero and TARGET_IS_ZERO in tools else []
    cache = "none" if target.block else "writeback"
    return ("qemu-img", "convert", "-n", "-W", "-m", "16", "-t", cache, *skip, "-O", "raw", *source, target.path)


def _rest(written: Bytes, target: End, zero: bool) -> tuple[Bytes, Bytes]:
    return (written, Bytes(0)) if zero else (written, Bytes(target.actual - written))
