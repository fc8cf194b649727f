"""Images come in as raw bytes or not at all: every format, checksums, short and failing sources, hostile headers."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import http.server
import lzma
import os
import re
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from copy_support import MIB, Disks, device, image, made_disks, make_world, read, sparse_bytes
from lab.opennebula.frontend import install_frontend
from linstor_un import image_formats
from linstor_un.errors import BadRequest, DriverError, Failed, Refused
from linstor_un.operations.importing import import_image, size_of
from linstor_un.operations.sources import require_allowed
from linstor_un.settings import Settings
from linstor_un.world import World

pytestmark = pytest.mark.slow

SIZE = 6 * MIB
TAIL = MIB + 65536
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
FORMATS = ["qcow2", "vmdk", "vhdx", "vpc", "vdi"]


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    with made_disks(tmp_path, True) as made:
        yield made


@pytest.fixture
def world(tmp_path: Path) -> World:
    var = tmp_path / "one" / "var"
    install_frontend(var)
    return make_world(var)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(staging: Path) -> Settings:
    return Settings(staging_dir=str(staging))


class Web(http.server.SimpleHTTPRequestHandler):
    """Files, and what servers do wrong."""

    def do_GET(self) -> None:
        if self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", str(SIZE))
            self.end_headers()
            self.wfile.write(sparse_bytes("a", SIZE)[: SIZE // 2])
        elif self.path == "/unannounced":
            self.send_response(200)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(sparse_bytes("a", SIZE))
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.path == "/unannounced":
            self.do_GET()
        else:
            super().do_HEAD()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(images: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Web, directory=str(images)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


def converted(folder: Path, form: str, content: bytes, *options: str) -> str:
    raw = write(folder / "raw", content)
    path = str(folder / f"image.{form}")
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", form, *options, raw, path], check=True)
    os.remove(raw)
    return path


@pytest.mark.parametrize("old_data", [True, False], ids=["dirty", "zero"])
@pytest.mark.parametrize("kind", ["raw", *PACKERS])
def test_a_raw_image_ends_on_the_volume(
    disks: Disks, world: World, settings: Settings, images: Path, kind: str, old_data: bool
) -> None:
    content = sparse_bytes("a", SIZE)
    path = write(images / "image", PACKERS.get(kind, bytes)(content))
    target = disks.make("target", SIZE + TAIL, dirty=old_data)
    assert size_of(world, path, settings, "") == SIZE // MIB
    import_image(world, image(path), settings, device(target, SIZE, zero=not old_data), "")
    assert read(target) == content + bytes(TAIL)
    assert old_data or disks.allocated("target") <= SIZE // 2


@pytest.mark.parametrize("old_data", [True, False], ids=["dirty", "zero"])
@pytest.mark.parametrize("form", FORMATS)
def test_an_image_of_another_format_ends_as_raw_bytes(
    disks: Disks, world: World, settings: Settings, images: Path, staging: Path, form: str, old_data: bool
) -> None:
    content = sparse_bytes("a", SIZE)
    fixed = ("-o", "force_size=on") if form == "vpc" else ()
    path = converted(images, form, content, *fixed)
    target = disks.make("target", SIZE + TAIL, dirty=old_data)
    assert size_of(world, path, settings, "") == SIZE // MIB
    import_image(world, image(path), settings, device(target, SIZE, zero=not old_data), "")
    assert read(target) == content + bytes(TAIL)
    assert disks.allocated("target") <= SIZE // 2
    assert list(staging.iterdir()) == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["raw", *FORMATS])
def test_an_image_on_a_web_server_has_the_same_size_and_bytes(
    disks: Disks, world: World, settings: Settings, images: Path, web: str, form: str, packed: bool
) -> None:
    content = sparse_bytes("b", SIZE)
    fixed = ("-o", "force_size=on") if form == "vpc" else ()
    path = converted(images, form, content, *fixed)
    if packed:
        write(images / "packed", gzip.compress(read(path)))
    url = f"{web}/packed" if packed else f"{web}/{os.path.basename(path)}"
    target = disks.make("target", SIZE)
    assert size_of(world, url, settings, "") == SIZE // MIB
    import_image(world, image(url), settings, device(target, SIZE, zero=True), "")
    assert read(target) == content


def test_a_server_that_announces_no_length_is_counted(world: World, settings: Settings, web: str) -> None:
    assert size_of(world, f"{web}/unannounced", settings, "") == SIZE // MIB


@pytest.mark.parametrize("url", ["rsync://100//0:aa//var/lib/one/datastores/100/3/disk.0.0", "restic://100/0:aa/x"])
def test_an_image_of_any_place_that_the_downloader_knows_comes_in(
    disks: Disks, world: World, settings: Settings, url: str
) -> None:
    content = sparse_bytes("a", SIZE)
    backups = Path(world.front_end.var, "backups")
    backups.mkdir()
    write(backups / hashlib.sha1(url.encode()).hexdigest(), content)
    target = disks.make("target", SIZE)
    assert size_of(world, url, settings, "") == SIZE // MIB
    import_image(world, image(url), settings, device(target, SIZE, zero=True), "")
    assert read(target) == content


def test_sizes_are_rounded_up(world: World, settings: Settings, images: Path) -> None:
    assert size_of(world, write(images / "image", bytes(MIB + 1)), settings, "") == 2


def test_no_decompress_leaves_an_archive_as_it_is(
    disks: Disks, world: World, images: Path, staging: Path
) -> None:
    packed = gzip.compress(sparse_bytes("a", SIZE))
    path = write(images / "image.gz", packed)
    settings = Settings(staging_dir=str(staging), no_decompress="Yes")
    target = disks.make("target", MIB)
    assert size_of(world, path, settings, "") == 1
    import_image(world, image(path), settings, device(target, MIB, zero=True), "")
    assert read(target)[: len(packed)] == packed


@pytest.mark.parametrize("form", ["raw", "qcow2"])
@pytest.mark.parametrize("kind", ["md5", "sha1"])
def test_checksums_are_looked_at(
    disks: Disks, world: World, settings: Settings, images: Path, staging: Path, kind: str, form: str
) -> None:
    path = converted(images, form, sparse_bytes("a", SIZE))
    right = hashlib.new(kind, read(path)).hexdigest()
    target = disks.make("target", SIZE)
    import_image(world, image(path, **{kind: right.upper()}), settings, device(target, SIZE, zero=True), "")
    with pytest.raises(Failed, match="Hash does not match"):
        wrong = ("0" if right[0] != "0" else "1") + right[1:]
        import_image(world, image(path, **{kind: wrong}), settings, device(target, SIZE), "")
    world.undo.unwind()
    assert list(staging.iterdir()) == []
    with pytest.raises(BadRequest, match="is not a checksum of that kind"):
        import_image(world, image(path, **{kind: "$(reboot)"}), settings, device(target, SIZE), "")


def test_a_source_that_ends_early_is_a_failure(
    disks: Disks, world: World, settings: Settings, web: str
) -> None:
    target = disks.make("target", SIZE)
    with pytest.raises(Failed, match="cannot fetch http://127.0.0.1"):
        import_image(world, image(f"{web}/short"), settings, device(target, SIZE, zero=True), "")


@pytest.mark.parametrize("path", ["/nosuch", "/dir"])
def test_a_source_that_fails_is_a_failure(
    disks: Disks, world: World, settings: Settings, web: str, path: str
) -> None:
    target = disks.make("target", SIZE)
    with pytest.raises(DriverError, match="cannot fetch"):
        import_image(world, image(f"{web}{path}"), settings, device(target, SIZE, zero=True), "")
    with pytest.raises(DriverError, match="cannot fetch"):
        size_of(world, f"{web}{path}", settings, "")


def test_a_broken_archive_is_a_failure(disks: Disks, world: World, settings: Settings, images: Path) -> None:
    whole = gzip.compress(os.urandom(SIZE))
    path = write(images / "image.gz", whole[: len(whole) // 2])
    target = disks.make("target", SIZE)
    with pytest.raises(Failed):
        import_image(world, image(path), settings, device(target, SIZE, zero=True), "")
    with pytest.raises(DriverError):
        size_of(world, path, settings, "")


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_an_image_larger_than_its_volume_is_refused(
    disks: Disks, world: World, settings: Settings, images: Path, staging: Path, form: str
) -> None:
    path = converted(images, form, sparse_bytes("a", SIZE))
    target = disks.make("target", SIZE + TAIL, dirty=True)
    before = read(target)
    with pytest.raises(Refused, match=f"the image has {SIZE} bytes, more than the {SIZE - MIB} of its volume"):
        import_image(world, image(path), settings, device(target, SIZE - MIB), "")
    assert read(target) == before
    world.undo.unwind()
    assert list(staging.iterdir()) == []


def test_a_packed_image_that_turns_out_larger_is_refused(
    disks: Disks, world: World, settings: Settings, images: Path
) -> None:
    path = write(images / "image.gz", gzip.compress(bytes(SIZE)))
    target = disks.make("target", SIZE + TAIL)
    with pytest.raises(Refused, match="give a greater SIZE"):
        import_image(world, image(path), settings, device(target, SIZE - MIB, zero=True), "")


@pytest.mark.parametrize("form", FORMATS)
def test_an_image_that_was_cut_off_is_a_failure_and_leaves_nothing_staged(
    disks: Disks, world: World, settings: Settings, images: Path, staging: Path, form: str
) -> None:
    path = converted(images, form, os.urandom(SIZE))
    os.truncate(path, os.path.getsize(path) // 2)
    target = disks.make("target", SIZE + TAIL)
    with pytest.raises(Failed):
        import_image(world, image(path), settings, device(target, SIZE + TAIL, zero=True), "")
    world.undo.unwind()
    assert list(staging.iterdir()) == []


def test_a_staged_image_is_nobody_elses_business(
    disks: Disks, world: World, settings: Settings, images: Path, staging: Path, tmp_path: Path
) -> None:
    """Nobody but the driver's user can look into its place, or prepare it: its name is another one each time."""
    path = converted(images, "qcow2", sparse_bytes("a", SIZE))
    downloader, seen = Path(world.front_end.remotes, "datastore/downloader.sh"), tmp_path / "seen"
    real = downloader.rename(tmp_path / "downloader")
    look = f'#!/bin/sh\nstat -c "%a %n" {staging}/* >>{seen} 2>/dev/null\n'
    target = disks.make("target", SIZE)
    downloader.write_text(f'{look}exec {real} "$@"\n')
    downloader.chmod(0o755)
    for _ in range(2):
        import_image(world, image(path), settings, device(target, SIZE, zero=True), "")
    found = {tuple(line.split()) for line in seen.read_text().splitlines()}
    assert len(found) == 2 and {mode for mode, _ in found} == {"700"}

    downloader.write_text(f'{look}case "$*" in *" -c "*) exec {real} "$@";; esac\nexit 1\n')
    with pytest.raises(Failed):
        import_image(world, image(path), settings, device(target, SIZE, zero=True), "")
    world.undo.unwind()
    assert len(seen.read_text().splitlines()) == 3 and list(staging.iterdir()) == []


def test_a_rerun_removes_what_a_killed_run_staged(
    disks: Disks, world: World, settings: Settings, images: Path, staging: Path
) -> None:
    path = converted(images, "qcow2", sparse_bytes("a", SIZE))
    target = disks.make("target", SIZE)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", target)[-100:]
    old = staging / f"linstor_un-{name}.0123456789abcdef"
    foreign = staging / "linstor_un-_dev_drbd_by-res_one-image-77_0.0123456789abcdef"
    for folder in (old, foreign):
        folder.mkdir()
        (folder / "image").write_bytes(b"half")
    import_image(world, image(path), settings, device(target, SIZE, zero=True), "")
    assert list(staging.iterdir()) == [foreign]


def secret(tmp_path: Path) -> str:
    return write(tmp_path / "secret", b"s3cret".ljust(MIB, b"."))


@pytest.mark.parametrize("hidden", ["backing", "data file", "vmdk descriptor", "vmdk without capacity", "qcow1", "qed"])
def test_an_image_that_reads_other_files_is_refused_before_qemu_opens_it(
    disks: Disks, world: World, settings: Settings, images: Path, tmp_path: Path, hidden: str
) -> None:
    other = secret(tmp_path)
    path = str(images / "image")
    if hidden == "backing":
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", other, path], check=True)
    elif hidden == "data file":
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={other},data_file_raw=on", path, "1M"]
        subprocess.run(argv, check=True)
    elif hidden == "vmdk descriptor":
        lines = ["# Disk DescriptorFile", "version=1", "CID=1", "parentCID=ffffffff", 'createType="monolithicFlat"']
        write(images / "image", "\n".join([*lines, f'RW 2048 FLAT "{other}" 0', ""]).encode())
    elif hidden == "vmdk without capacity":
        write(images / "image", b"KDMV" + struct.pack("<II", 1, 3) + bytes(65536))
    else:
        form = {"qcow1": "qcow", "qed": "qed"}[hidden]
        subprocess.run(["qemu-img", "create", "-q", "-f", form, path, "1M"], check=True)
    target = disks.make("target", SIZE)
    for attempt in (
        lambda: import_image(world, image(path), settings, device(target, SIZE, zero=True), ""),
        lambda: size_of(world, path, settings, ""),
    ):
        with pytest.raises(BadRequest, match="make it one whole image first|is not taken; convert it"):
            attempt()
    assert b"s3cret" not in read(target)


def test_an_image_is_judged_as_it_was_staged(
    disks: Disks, world: World, settings: Settings, images: Path, tmp_path: Path, staging: Path
) -> None:
    good = converted(images, "qcow2", sparse_bytes("a", SIZE))
    evil = str(tmp_path / "evil.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret(tmp_path), evil], check=True)
    turn = tmp_path / "turn"
    downloader = Path(world.front_end.remotes, "datastore/downloader.sh")
    downloader.write_text(
        f'#!/bin/sh\ncase "$*" in *" -c "*) head -c 65536 {good};; *) touch {turn}; cat {evil};; esac\n'
    )
    target = disks.make("target", SIZE)
    with pytest.raises(BadRequest, match="a backing file"):
        import_image(world, image("http://evil.example/x"), settings, device(target, SIZE, zero=True), "")
    assert turn.exists()
    world.undo.unwind()
    assert list(staging.iterdir()) == []
    assert b"s3cret" not in read(target)


# what may be read


def test_directories_are_compared_by_component_after_links(world: World, tmp_path: Path) -> None:
    (tmp_path / "closed/deep/open").mkdir(parents=True)
    (tmp_path / "closedx").mkdir()
    inside = write(tmp_path / "closed/deep/image", b"x")
    safe = write(tmp_path / "closed/deep/open/image", b"x")
    beside = write(tmp_path / "closedx/image", b"x")
    (tmp_path / "closedx/link").symlink_to(inside)
    (tmp_path / "closedx/safe link").symlink_to(safe)
    rules = Settings(restricted_dirs=(str(tmp_path / "closed"),), safe_dirs=(str(tmp_path / "closed/deep/open"),))
    for path in (inside, f"file://{inside}", f"{tmp_path}/closedx/../closed/deep/image", f"{tmp_path}/closedx/link"):
        with pytest.raises(BadRequest, match="is in a directory that images must not come from"):
            require_allowed(world, path, rules)
    for path in (safe, beside, f"{tmp_path}/closedx/safe link"):
        require_allowed(world, path, rules)


def test_opennebulas_own_directories_are_always_closed(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for path in (Path(world.front_end.var, ".one_auth"), tmp_path / "home/key"):
        with pytest.raises(BadRequest, match="must not come from"):
            require_allowed(world, write(path, b"x"), Settings(restricted_dirs=("/nosuch",)))


@pytest.mark.parametrize("kind", ["directory", "device", "fifo", "missing", "unreadable loop"])
def test_only_regular_files_are_images(world: World, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "directory":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "unreadable loop":
        path.symlink_to(path)
    with pytest.raises(BadRequest, match="is not a regular file|cannot be read"):
        require_allowed(world, str(path), Settings())


@pytest.mark.parametrize("path", [
    "", "image", "../image", "/tmp/a\0b", "/tmp/a\nb", "http://x/\n--config", "-c", "ssh://host;reboot:/x", "ssh://host&:/x",
    "docker://$(reboot)", "lxd://`reboot`", "rbd://a'b", 's3://a"b', "HTTP://x/y", "rsync://a b",
])  # fmt: skip
def test_paths_that_a_shell_could_read_are_refused(world: World, path: str) -> None:
    with pytest.raises(BadRequest):
        require_allowed(world, path, Settings())


@pytest.mark.parametrize("path", [
    "http://x/a'b$(c)?d=e&f", "https://user:pw@x/y", "docker://ubuntu?size=1024&filesystem=ext4&format=raw",
    "rsync://100//0:aa,1:bb//var/lib/one/datastores/100/3/disk.0.0", "s3://bucket/object", "ssh://oneadmin@host:/var/x",
])  # fmt: skip
def test_urls_that_the_downloader_knows_are_taken(world: World, path: str) -> None:
    require_allowed(world, path, Settings())


def test_a_hostile_file_name_is_only_a_name(disks: Disks, world: World, settings: Settings, images: Path) -> None:
    content = sparse_bytes("a", MIB)
    path = write(images / "'; touch boom; $(touch boom) \"`touch boom`", content)
    target = disks.make("target", MIB)
    import_image(world, image(path), settings, device(target, MIB, zero=True), "")
    assert read(target) == content
    assert not os.path.exists("boom")


def test_the_bandwidth_limit_is_a_number(world: World, staging: Path, images: Path, disks: Disks) -> None:
    path = write(images / "image", bytes(MIB))
    target = device(disks.make("target", MIB), MIB, zero=True)
    with pytest.raises(BadRequest, match="LIMIT_TRANSFER_BW"):
        import_image(world, image(path), Settings(staging_dir=str(staging), limit_transfer_bw="1 -o /x"), target, "")


@pytest.mark.parametrize("head", [b"", b"Q", b"QFI\xfb\0\0\0\3", b"KDMV", b"QFI\xfb\0\0\0\2" + bytes(3)])
def test_a_head_that_ends_early_is_no_crash(head: bytes) -> None:
    form = image_formats.detect(head)
    if form != "raw":
        with pytest.raises(BadRequest):
            image_formats.require_self_contained(form, head, "x")
            image_formats.virtual_size(form, head)
