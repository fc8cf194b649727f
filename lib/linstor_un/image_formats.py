"""What an image is, by its first bytes; images that read other files are refused.

A user's qcow2 or vmdk can name any file of the host that converts it as its backing file or extent, and the
content would end on the user's disk. So the header is judged here, before qemu opens the image.
"""

from __future__ import annotations

import struct
from typing import Optional

from .errors import BadRequest
from .units import Bytes

RAW = "raw"
# What `detect` and `virtual_size` need at most.
HEAD_BYTES = 65536

# qemu's names by the bytes at an offset.
_MAGIC = (
    ("qcow2", 0, b"QFI\xfb\x00\x00\x00\x02"),
    ("qcow2", 0, b"QFI\xfb\x00\x00\x00\x03"),
    ("qcow", 0, b"QFI\xfb"),
    ("vmdk", 0, b"KDMV"),
    ("vmdk", 0, b"COWD"),
    ("vmdk", 0, b"# Disk Descriptor"),
    ("vhdx", 0, b"vhdxfile"),
    ("vpc", 0, b"conectix"),
    ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("qed", 0, b"QED\x00"),
)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_TAKEN = ("qcow2", "vmdk", "vhdx", "vpc", "vdi")

_QCOW2_EXTERNAL_DATA = 1 << 2


def detect(head: bytes) -> str:
    """Return qemu's name of the format, "raw" for everything unknown. Arguments: head, the first bytes."""
    for name, offset, magic in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return name
    return RAW


def compressed(head: bytes) -> bool:
    """Return whether downloader.sh would unpack this (gzip, bzip2, xz). Arguments: head, the first bytes."""
    return head.startswith(_COMPRESSED)


def require_self_contained(form: str, head: bytes, what: str) -> None:
    """Refuse an image that may read other files, or whose format is not taken.

    Arguments: form, as `detect` says; head, the first bytes; what, the image in the sentence. Raises BadRequest.
    """
    if form not in _TAKEN:
        raise BadRequest(f"{what} is a {form} image, which is not taken; convert it to qcow2 or raw first")
    other = None
    if form == "qcow2":
        other = _qcow2_reads(head)
    elif form == "vmdk" and (head[:4] != b"KDMV" or not virtual_size(form, head)):
        other = "extents in other files"
    if other:
        raise BadRequest(f"{what} is a {form} image with {other}; make it one whole image first (qemu-img convert)")


def virtual_size(form: str, head: bytes) -> Optional[Bytes]:
    """Return the size of the disk inside in bytes, None where the head alone does not tell.

    Raises BadRequest when the head is too short for its format.
    """
    try:
        if form == "qcow2":
            return Bytes(struct.unpack_from(">Q", head, 24)[0])
        if form == "vmdk":
            return Bytes(struct.unpack_from("<Q", head, 12)[0] * 512)
        if form == "vdi":
            return Bytes(struct.unpack_from("<Q", head, 0x170)[0])
    except struct.error:
        raise BadRequest(f"the image ends within its {form} header") from None
    return None


def least_file_size(form: str, head: bytes) -> Bytes:
    """Return how long the file must be at least, in bytes, as far as only its header knows: vdi.

    `qemu-img check` finds no fault with a vdi that is cut off; for the other formats it does.
    """
    if form != "vdi" or len(head) < 0x188:
        return Bytes(0)
    (data,) = struct.unpack_from("<I", head, 0x158)
    (block,) = struct.unpack_from("<I", head, 0x178)
    (allocated,) = struct.unpack_from("<I", head, 0x184)
    return Bytes(data + block * allocated)


def _qcow2_reads(head: bytes) -> Optional[str]:
    try:
        version, backing = struct.unpack_from(">IQ", head, 4)
        features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 else 0
    except struct.error:
        return "a header that ends too early"
    if backing:
        return "a backing file"
    return "an external data file" if features & _QCOW2_EXTERNAL_DATA else None
