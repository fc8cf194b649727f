"""A copied device has the source's bytes and then zeroes, whatever was on the target before; thin stays thin."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from copy_support import MIB, Disks, device, made_disks, make_world, read, sparse_bytes
from linstor_un.errors import BadRequest, DriverError, Failed, Refused
from linstor_un.operations import contents
from linstor_un.world import World

SIZE = 12 * MIB
TAIL = MIB + 65536


@pytest.fixture(params=["device", "file"])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disks]:
    with made_disks(tmp_path, request.param == "device") as made:
        yield made


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[Disks]:
    with made_disks(tmp_path, True) as made:
        yield made


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "var")


def world_without(tmp_path: Path, *tools: str) -> World:
    """A world whose machine has everything in PATH but these."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        for name in os.listdir(place):
            if name not in tools and not (folder / name).is_symlink():
                (folder / name).symlink_to(f"{place}/{name}")
    return make_world(tmp_path / "var", {**os.environ, "PATH": str(folder)})


# One volume is larger than the other in both ways already.
OTHER_SIZES = [pytest.param(*more, marks=pytest.mark.slow) for more in ((0, 0), (TAIL, TAIL), (65536, TAIL))]


@pytest.mark.parametrize("old_data", [True, False], ids=["dirty target", "zero target"])
@pytest.mark.parametrize("source_more, target_more", [(0, TAIL), (TAIL, 0), *OTHER_SIZES])
def test_a_copy_has_the_source_and_then_zeroes(
    disks: Disks, world: World, old_data: bool, source_more: int, target_more: int
) -> None:
    source = disks.make("source", SIZE + source_more, sparse_bytes("a", SIZE + source_more))
    target = disks.make("target", SIZE + target_more, dirty=old_data)
    contents.copy_device(world, device(source, SIZE), device(target, SIZE, zero=not old_data))
    length = min(SIZE + source_more, SIZE + target_more)
    expected = sparse_bytes("a", SIZE + source_more)[:length]
    assert read(target) == expected + bytes(SIZE + target_more - length)
    assert disks.allocated("target") <= SIZE * 2 // 3


def test_a_qemu_img_that_knows_no_known_zeroes_copies_as_well(loops: Disks, tmp_path: Path) -> None:
    source = loops.make("source", SIZE, sparse_bytes("a", SIZE))
    target = loops.make("target", SIZE + TAIL)
    world = world_without(tmp_path, "qemu-img")
    older = tmp_path / "bin/qemu-img"
    older.write_text(
        '#!/bin/sh\n[ "$1" = --help ] && exit 0\n'
        'case "$*" in *target-is-zero*) exit 1;; esac\nexec /usr/bin/qemu-img "$@"\n'
    )
    older.chmod(0o755)
    contents.copy_device(world, device(source, SIZE), device(target, SIZE, zero=True))
    assert read(target) == sparse_bytes("a", SIZE) + bytes(TAIL)
    assert loops.allocated("target") <= SIZE * 2 // 3


def test_what_a_guest_wrote_behind_the_asked_size_is_copied(loops: Disks, world: World) -> None:
    source = loops.make("source", SIZE + TAIL, bytes(SIZE + TAIL - 512) + b"backup partition table".ljust(512, b"."))
    target = loops.make("target", SIZE + TAIL)
    contents.copy_device(world, device(source, SIZE), device(target, SIZE, zero=True))
    assert read(target)[-512:].startswith(b"backup partition table")


def test_a_target_that_is_too_small_is_not_touched(disks: Disks, world: World) -> None:
    source = disks.make("source", SIZE, sparse_bytes("a", SIZE))
    target = disks.make("target", SIZE - MIB, dirty=True)
    before = read(target)
    with pytest.raises(Refused, match=f"has {SIZE - MIB} bytes, too few for the {SIZE} of"):
        contents.copy_device(world, device(source, SIZE), device(target, SIZE - MIB))
    assert read(target) == before


def test_a_device_that_does_not_come_is_named(world: World, loops: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_MEASURE", contents._MEASURE.replace("-gt 50", "-gt 1"))
    target = loops.make("target", SIZE)
    with pytest.raises(Refused, match="/dev/nosuch is not there on here"):
        contents.copy_device(world, device("/dev/nosuch", SIZE), device(target, SIZE))


def test_the_device_of_a_deleted_file_is_nobodys_target(
    world: World, loops: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_MEASURE", contents._MEASURE.replace("-gt 50", "-gt 1"))
    source = loops.make("source", SIZE, sparse_bytes("a", SIZE))
    target = loops.make("target", SIZE)
    loops.backing("target").unlink()
    with pytest.raises(Refused, match=f"{target} is not there on here"):
        contents.copy_device(world, device(source, SIZE), device(target, SIZE))
    assert not any(read(target))


def test_a_device_that_became_another_volumes_is_not_written(world: World, loops: Disks) -> None:
    target = loops.make("one-image-6_00000", SIZE)
    for name, mine in (("one-image-6", True), ("one-image-66", False), ("one-image", False)):
        end = device(target, SIZE)._replace(volume=name)
        with nullcontext() if mine else pytest.raises(Failed, match=f"is not the device of {name} any more"):
            contents.make_filesystem(world, end, "ext4")


def test_a_device_that_grows_a_moment_later_is_waited_for(loops: Disks, world: World) -> None:
    source = loops.make("source", SIZE, sparse_bytes("a", SIZE))
    target = loops.make("target", SIZE - MIB)
    grow = f"sleep 0.5; truncate -s {SIZE} {loops.backing('target')}; losetup -c {target}"
    with subprocess.Popen(["sh", "-c", grow]):
        contents.copy_device(world, device(source, SIZE), device(target, SIZE, zero=True))
    assert read(target) == sparse_bytes("a", SIZE)


def test_a_full_pool_is_a_failure(tmp_path: Path, world: World) -> None:
    if os.geteuid() != 0:
        pytest.skip("a pool of limited size is a tmpfs, which needs root")
    pool = tmp_path / "pool"
    pool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "pool", str(pool)], check=True)
    try:
        with made_disks(pool, True) as small, made_disks(tmp_path, True) as large:
            source = large.make("source", SIZE, b"\x01" * SIZE)
            target = small.make("target", SIZE)
            with pytest.raises(Failed, match=r"cannot copy .*: .*(space|I/O|Input/output)"):
                contents.copy_device(world, device(source, SIZE), device(target, SIZE, zero=True))
    finally:
        subprocess.run(["umount", str(pool)], check=True)


@pytest.mark.parametrize("old_data", [True, False], ids=["dirty", "zero"])
def test_zeroing_leaves_only_zeroes_and_takes_no_space(disks: Disks, world: World, old_data: bool) -> None:
    target = disks.make("target", SIZE + TAIL, dirty=old_data)
    contents.fill_zero(world, device(target, SIZE, zero=not old_data))
    assert read(target) == bytes(SIZE + TAIL)
    assert disks.allocated("target") < MIB


def test_a_device_that_cannot_punch_holes_gets_zeroes_written(loops: Disks, tmp_path: Path) -> None:
    target = loops.make("target", SIZE + 512, dirty=True)
    contents.fill_zero(world_without(tmp_path, "fallocate"), device(target, SIZE))
    assert read(target) == bytes(SIZE + 512)


@pytest.mark.parametrize(
    "filesystem, size", [("ext2", 16), ("ext3", 16), ("ext4", 16), pytest.param("xfs", 320, marks=pytest.mark.slow)]
)
def test_a_file_system_is_there_and_nothing_old_beside_it(
    loops: Disks, world: World, filesystem: str, size: int
) -> None:
    target = loops.make("target", size * MIB, dirty=size < 100)
    contents.make_filesystem(world, device(target, size * MIB, zero=size > 100), filesystem)
    look = ["blkid", "-p", "-s", "TYPE", "-o", "value", target]
    assert subprocess.run(look, capture_output=True, text=True, check=True).stdout.strip() == filesystem
    assert b"OLD" not in read(target)


def test_swap_is_labelled_as_opennebula_does(loops: Disks, world: World) -> None:
    target = loops.make("target", SIZE, dirty=True)
    contents.make_swap(world, device(target, SIZE))
    found = subprocess.run(["blkid", "-p", "-o", "export", target], capture_output=True, text=True, check=True).stdout
    assert "TYPE=swap" in found and "LABEL=swap" in found
    assert b"OLD" not in read(target)


def test_only_file_systems_of_datastore_conf_are_made(loops: Disks, world: World, tmp_path: Path) -> None:
    conf = tmp_path / "var/remotes/etc/datastore/datastore.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text('SUPPORTED_FS="ext4,btrfs" # ours\nFS_OPTS_ext4="-L $(touch /tmp/x) -I 512"\n')
    target = loops.make("target", 16 * MIB, dirty=True)
    before = read(target)
    with pytest.raises(BadRequest, match="file system 'xfs' is not supported; datastore.conf allows ext4, btrfs"):
        contents.make_filesystem(world, device(target, 16 * MIB), "xfs")
    with pytest.raises(BadRequest):
        contents.require_filesystem(world, "ext4; reboot")
    assert read(target) == before


def test_a_tool_that_fails_is_a_failure_with_its_words(loops: Disks, world: World) -> None:
    target = loops.make("target", 2 * MIB)
    with pytest.raises(Failed, match="cannot make xfs on "):
        contents.make_filesystem(world, device(target, 2 * MIB, zero=True), "xfs")


def test_hostile_names_of_devices_are_only_names(tmp_path: Path, world: World) -> None:
    with made_disks(tmp_path, False) as files:
        (tmp_path / "$(touch boom)").mkdir()
        source = files.make("$(touch boom)/so'ur\"ce;touch boom,\nx=1", SIZE, sparse_bytes("a", SIZE))
        target = files.make("target $(touch boom)", SIZE + TAIL, dirty=True)
        contents.copy_device(world, device(source, SIZE), device(target, SIZE))
        assert read(target) == sparse_bytes("a", SIZE) + bytes(TAIL)
    assert not (tmp_path / "boom").exists() and not os.path.exists("boom")


def test_an_unreachable_host_is_refused_before_anything_runs(loops: Disks, world: World) -> None:
    source = loops.make("source", SIZE)
    with pytest.raises(DriverError, match="host nosuch.invalid cannot be reached"):
        contents.copy_device(world, device(source, SIZE, host="nosuch.invalid"), device(source, SIZE))
