"""The list of mutants fits the source; and guards that no other test shows by themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mutants
import pytest
from copy_support import MIB, device, image, make_world
from linstor_un import placement
from linstor_un.adapters.controller_answers import entries, error_of
from linstor_un.errors import Exists, Failed, NotEnoughSpace, Refused
from linstor_un.inventory import Definition
from linstor_un.naming import CREATING, IMAGE_ID, ORIGIN, RUN, STATE
from linstor_un.operations import contents, removal, volumes
from linstor_un.operations.importing import import_image
from linstor_un.operations.volumes import Wanted
from linstor_un.placement import Fate
from linstor_un.settings import Settings
from linstor_un.undo import Undo
from linstor_un.units import Kib
from linstor_un.world import Outcome, World
from test_controller_contract import SIZE, Stage, sentence, simulated

NAME = "one-image-5"
MARKS = {IMAGE_ID: "5", ORIGIN: "1700000000"}


@pytest.mark.parametrize("mutant", mutants.listed(), ids=lambda mutant: mutant.why)
def test_each_mutant_fits_the_source_and_names_a_test(mutant: mutants.Mutant) -> None:
    assert (mutants.PROJECT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    file, _, test = mutant.test.partition("::")
    assert f"def {test}(" in (mutants.PROJECT / file).read_text()


def test_words_that_no_guard_has_run_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutants.main(["no guard says this"]) == 2
    assert "no guard says this" in capsys.readouterr().err


def test_enough_guards_are_listed() -> None:
    assert len(mutants.listed()) >= 24


@pytest.fixture
def stage() -> Iterator[Stage]:
    yield from simulated("1.33", "LVM_THIN", ("DRBD", "STORAGE"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def found(**props: str) -> Definition:
    return Definition(NAME, frozenset(), {f"Aux/one/{key}": value for key, value in props.items()}, "", (), Kib(SIZE))


@pytest.mark.parametrize("props", [{"IMAGE_ID": "6"}, {"VM_ID": "5"}, {}], ids=["another image", "a disk", "no mark"])
def test_a_name_that_is_somebody_elses_is_left_alone(stage: Stage, world: World, props: dict[str, str]) -> None:
    marks = {**MARKS, "Aux/one/VM_ID": "4"}
    assert NAME in sentence(lambda: placement.fate(found(**props), marks), Exists)
    stage.lin.define(NAME, stage.settings, dict(found(**props).props))
    wanted = Wanted(NAME, SIZE, stage.settings, marks)
    sentence(lambda: volumes.create(world, stage.lin, wanted), Exists)
    if props:
        sentence(lambda: removal.remove(world, stage.lin, NAME, marks, stage.settings), Exists)
    assert world.undo.unwind() == [] and NAME in stage.lin.definitions([NAME])


def test_a_half_made_volume_is_made_again(stage: Stage, world: World) -> None:
    assert placement.fate(found(IMAGE_ID="5", STATE=CREATING, RUN="killed"), MARKS) is Fate.REPLACE
    wanted = Wanted(NAME, SIZE, stage.settings, MARKS)
    assert volumes.create(world, stage.lin, wanted)
    assert stage.simulator
    before = stage.simulator.cluster.definition(NAME)
    assert volumes.create(world._replace(run="run-2", undo=Undo()), stage.lin, wanted)
    after = stage.simulator.cluster.definition(NAME)
    assert before and after and before.uuid != after.uuid
    volumes.complete(world, stage.lin, NAME)
    assert volumes.create(world, stage.lin, wanted) is None
    assert stage.simulator.cluster.definition(NAME) is after


def test_a_take_back_leaves_a_rivals_volume_alone(stage: Stage, world: World) -> None:
    stage.lin.define(NAME, stage.settings, {STATE: CREATING, RUN: "rival"})
    volumes.discard(world, stage.lin, NAME)
    assert NAME in stage.lin.definitions([NAME])
    stage.lin.mark(NAME, {RUN: world.run})
    volumes.discard(world, stage.lin, NAME)
    assert NAME not in stage.lin.definitions([NAME])


def test_an_error_after_the_change_was_stored_is_no_refusal() -> None:
    stored = {"ret_code": 1, "message": "New definition created."}
    refused = {"ret_code": -4611686018427387904 + 996, "message": "Not enough nodes"}
    alone = error_of(entries([refused]) or [], "place it")
    begun = error_of(entries([stored, refused]) or [], "place it")
    assert isinstance(alone, NotEnoughSpace)
    assert isinstance(begun, Failed) and not isinstance(begun, Refused)


@pytest.mark.parametrize("layers, zero", [(("DRBD", "STORAGE"), True), (("DRBD", "LUKS", "STORAGE"), False)])
def test_an_encrypted_volume_is_not_known_to_be_zero(world: World, layers: tuple[str, ...], zero: bool) -> None:
    for stage in simulated("1.33", "LVM_THIN", layers):
        assert stage.simulator
        stage.simulator.cluster.passphrase, stage.simulator.cluster.unlocked = "secret", True
        volume = volumes.create(world, stage.lin, Wanted(NAME, SIZE, stage.settings, MARKS))
        assert volume and volume.zero is zero


def test_bytes_that_were_not_written_are_a_failure() -> None:
    said = Outcome(0, "", "1+0 records in\n1+0 records out\n512 bytes copied, 0.1 s, 5 kB/s\n")
    contents.require_written(said, 512, "copy it")
    assert "1024 bytes were sent and 512 written" in sentence(
        lambda: contents.require_written(said, 1024, "copy it"), Failed
    )


def test_a_file_system_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("mkfs.ext4", "#!/bin/sh\nexit 0\n"),):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    world = make_world(tmp_path / "var", {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"})
    volume = tmp_path / "volume"
    volume.write_bytes(bytes(MIB))
    assert "blkid finds nothing there" in sentence(
        lambda: contents.make_filesystem(world, device(str(volume), MIB, zero=True), "ext4"), Failed
    )


def test_a_downloader_that_delivers_less_than_the_file_is_a_failure(tmp_path: Path) -> None:
    world = make_world(tmp_path / "var")
    downloader = tmp_path / "var/remotes/datastore/downloader.sh"
    downloader.parent.mkdir(parents=True)
    downloader.write_text("#!/bin/sh\nhead -c 1024 /dev/zero\n")
    downloader.chmod(0o755)
    source, volume = tmp_path / "image", tmp_path / "volume"
    source.write_bytes(b"1" * MIB)
    volume.write_bytes(bytes(MIB))
    settings = Settings(safe_dirs=(str(tmp_path),))
    assert f"it has {MIB} bytes and only 1024 were read" in sentence(
        lambda: import_image(world, image(str(source)), settings, device(str(volume), MIB, zero=True), ""), Failed
    )


@pytest.mark.parametrize("failure, taken_back", [(Failed, True), (Refused, False)])
def test_only_a_refusal_strikes_a_take_back_out(failure: type[Exception], taken_back: bool) -> None:
    undo, done = Undo(), []
    with pytest.raises(failure):
        with undo.by("a thing", done.append, "taken back"):
            raise failure("no")
    undo.unwind()
    assert bool(done) is taken_back
