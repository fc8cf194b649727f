"""One case: an action of which one effect goes wrong, what it left, what a rerun makes of it, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from lab.controller.features import Version
from lab.matrix import scene
from lab.matrix.actions import IMAGE_FILES, Action, make_image_files
from lab.matrix.effects import Effect, Saboteur
from lab.matrix.looking import Key, State, digest, look, quiet
from lab.oned.answers import Outcome

_SECONDS = 120.0
_STATE = "Aux/one/STATE"
# What was left is told in one of these ways.
_KINDS = {"definition", "attachment", "replica", "snapshot", "mark", "file", "lock", "process", "guest"}


@dataclass(frozen=True)
class Case:
    """One effect of an action and how it goes wrong."""

    effect: Effect
    how: str

    def __str__(self) -> str:
        return f"{self.how} at {self.effect.kind} {self.effect.number} ({self.effect.label})"


@dataclass
class Row:
    """What the cases of one action showed; the lists hold one text a problem."""

    action: str
    effects: int = 0
    cases: int = 0
    leftovers: list[str] = field(default_factory=list)
    reruns: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Return what was wrong, one line each."""
        kinds = (("left", self.leftovers), ("rerun", self.reruns), ("foreign", self.foreign))
        return [f"{kind}: {text}" for kind, texts in kinds for text in texts]


class Unfit(Exception):
    """The undisturbed run of an action is wrong already: there is nothing to compare with."""


class Bench:
    """One lab in which actions are interrupted, one after the other."""

    def __init__(self) -> None:
        self.site = scene.Stage()
        make_image_files()
        self._saboteur = Saboteur(self.site)
        self._base: State = {}
        self._goal: State = {}

    def close(self) -> None:
        """End the lab."""
        self.site.close()

    def effects(self, action: Action) -> list[Effect]:
        """Run an action undisturbed: remember where it begins and ends, and return its effects."""
        scene.furnish(self.site, action.lcm_state, action.hosts, **action.attributes)
        self.site.cluster.version = Version(action.linstor)
        self._base = action.scene.establish(self.site)
        self._saboteur.reads = False
        outcome = self._run(action)
        busy = quiet(self.site)
        found = self._saboteur.effects()
        if not found:
            self._saboteur.reads = True
            found = self._saboteur.effects()
        self._goal = look(self.site)
        self._require_right(action, outcome, busy)
        return found

    def _require_right(self, action: Action, outcome: Outcome, busy: list[str]) -> None:
        if not outcome.success or busy:
            raise Unfit(f"{action.name}: exit code {outcome.code}: {outcome.stderr.strip()} {' '.join(busy)}")
        allowed = scene.subject_keys({**self._base, **self._goal}, action.changes)
        touched = {key for key in self._base.keys() | self._goal.keys() if self._base.get(key) != self._goal.get(key)}
        if touched - allowed:
            raise Unfit(f"{action.name}: it changed {sorted(touched - allowed)}")
        copy, original = action.copies
        if copy:
            wanted = self._base.get(("content", original, "")) or digest(IMAGE_FILES / original)
            if self._goal.get(("content", copy, "")) != wanted:
                raise Unfit(f"{action.name}: {copy} does not hold what {original} holds")

    def row(self, action: Action, effects: list[Effect], cases: Iterable[Case]) -> Row:
        """Interrupt an action, whose effects were found just before, in these cases."""
        row = Row(action.name, len(effects))
        for case in cases:
            row.cases += 1
            self._case(action, case, row)
        return row

    def _case(self, action: Action, case: Case, row: Row) -> None:
        action.scene.restore(self.site, self._base)
        self._saboteur.aim(case.effect, case.how)
        said = f"{action.name}: {case}"
        try:
            outcome = self._finish(action)
        except TimeoutError:
            row.leftovers.append(f"{said}: the driver does not end")
            return
        busy = quiet(self.site)
        after = look(self.site)
        told = outcome.stderr
        row.leftovers += [f"{said}: {one}" for one in busy]
        if not case.how.startswith("kill"):
            row.leftovers += [f"{said}: {one}" for one in self._unnamed(action, outcome, after)]
        foreign = self._foreign(action, after)
        again = self._run(action)
        busy = quiet(self.site)
        end = look(self.site)
        foreign += [one for one in self._foreign(action, end) if one not in foreign]
        row.foreign += [f"{said}: {one}" for one in foreign]
        # oned does not repeat what succeeded: of that the warning is all that can be asked for.
        excused = {key for key in end if outcome.success and key not in self._goal and _named(key, told)}
        end = {key: value for key, value in end.items() if key not in excused}
        wrong = _differences(self._goal, end) if again.success else [f"exit code {again.code}: {again.stderr.strip()}"]
        context = f" (the first run: {outcome.code} {told.strip()})"
        row.reruns += [f"{said}: rerun: {one}{context}" for one in [*busy, *wrong]]

    def _run(self, action: Action) -> Outcome:
        self._saboteur.clear()
        return self._finish(action)

    def _finish(self, action: Action) -> Outcome:
        running = self._saboteur.watch(action.start(self.site))
        try:
            return self.site.oned.finish(running, _SECONDS)
        except TimeoutError:
            running.kill()
            raise

    def _unnamed(self, action: Action, outcome: Outcome, after: State) -> list[str]:
        """Return what is there although it should not be, and which nobody told of."""
        wanted = self._goal if outcome.success else self._base
        new = {key for key in after if key not in wanted and key[0] in _KINDS}
        left = [key for key in sorted(new) if key[0] == "definition" or ("definition", key[1], "") not in new]
        # A refused removal says so on the definition, for the next run.
        left = [key for key in left if not (key[0] == "mark" and key[1] in action.changes and key[2] == _STATE)]
        left += [key for key in sorted(after) if key[0] == "definition" and after[key] != wanted.get(key, after[key])]
        unnamed = [f"left: {' '.join(key)}" for key in left if not _named(key, outcome.stderr)]
        # What OpenNebula's own script leaves is named by its path, and made anew at the next boot.
        if left and not unnamed and not outcome.success and outcome.code != 3 and action.name != "context":
            unnamed = [f"exit code {outcome.code} although {' '.join(left[0])} is left"]
        if not outcome.success:
            guests = {key for key in wanted.keys() | after.keys() if key[0] == "guest"}
            unnamed += [f"guest: {' '.join(key)}: was {wanted.get(key)}, is {after.get(key)}" for key in sorted(guests)
                        if wanted.get(key) != after.get(key) and not _named(key, outcome.stderr)]
        if outcome.success:
            unnamed += [f"exit code 0, but {one}" for one in _differences(self._goal, after) if "more: " not in one]
        said = "" if outcome.success or outcome.stderr else "it failed and said nothing"
        return [f"{one} (exit code {outcome.code}: {outcome.stderr.strip()})" for one in [*unnamed, said] if one]

    def _foreign(self, action: Action, state: State) -> list[str]:
        """Return what differs of the things that the action is not about; new ones are leftovers instead."""
        mine = scene.subject_keys(self._base, action.changes)
        return [
            f"{' '.join(key)} was {value}, is {state.get(key, 'gone')}"
            for key, value in sorted(self._base.items()) if key not in mine and state.get(key) != value
        ]


def _named(key: Key, text: str) -> bool:
    kind, owner, detail = key
    words = {"definition": [owner], "replica": [owner, detail], "attachment": [owner, detail],
             "snapshot": [owner, detail], "mark": ["marks", owner], "file": [owner, detail], "guest": ["VM 7"]}
    if kind == "file" and "/linstor_un-" in detail:
        # Staging is told by its directory.
        words[kind] = [owner, "/".join(detail.split("/")[:4])]
    if kind == "mark" and ("MIGRATION" in detail or detail.startswith("two primaries")):
        words[kind] = ["two primaries", owner]
    if kind == "file" and "/.linstor_un." in detail:
        # What the driver has of its own in a VM's directory is told by that directory.
        words[kind] = [detail.partition("/.linstor_un.")[0], f" on {owner}"]
    if kind == "file" and "/backup/" in detail:
        # What lies ready for a backup datastore is told by its directory.
        words[kind] = [f"{detail.partition('/backup/')[0]}/backup", owner]
    inside = re.match(r"/var/lib/one/datastores/\d+/\d+(?=/)", detail)
    if kind == "file" and inside and re.search(rf"{inside[0]}(?![/\w])", text):
        # What is in a VM's directory is told by the directory.
        words[kind] = [owner]
    return kind in words and all(word in text for word in words[kind])


def _differences(wanted: State, found: State) -> list[str]:
    texts = [f"less: {' '.join(key)}" for key in sorted(wanted.keys() - found.keys())]
    texts += [f"more: {' '.join(key)} {found[key]}" for key in sorted(found.keys() - wanted.keys())]
    texts += [
        f"{' '.join(key)} is {found[key]} instead of {value}"
        for key, value in sorted(wanted.items()) if key in found and found[key] != value
    ]
    return texts
