"""Whether one call ended as expected; docs/replay.md says the same in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lab.replaying import (
    backup_rules,
    checkpoint_rules,
    disk_rules,
    facts,
    image_rules,
    migration_rules,
    moving_rules,
    snapshot_rules,
    volume_rules,
)
from lab.replaying.case import Case, plain_lines
from lab.replaying.snapshot import Snapshot

_MESSAGE_LIMIT = 600


def failed_cleanly(case: Case, reason: str) -> None:
    """Judge a call that had to fail: a code that says nothing is left, one sentence, nothing changed."""
    if not case.unless(not case.outcome.success, f"succeeded although {reason}"):
        return
    if case.call.kind == "vmm" and not facts.checkpoint_of(case.call).ours:
        checkpoint_rules.failed_there(case, reason)
        return
    ends_migration = case.call.action in ("postmigrate", "failmigrate")
    # What a lost migration left cannot be taken back either while the controller refuses: then it is to be named.
    already_left = case.call.action == "premigrate" and any(name in reason for name in case.world.lost)
    codes = (1, 2, 3) if ends_migration or already_left else (1, 2)
    case.unless(case.outcome.code in codes, f"exit code {case.outcome.code}, not {codes}: {case.outcome.stderr[-800:]}")
    case.unless(not case.outcome.stdout, f"printed {case.outcome.stdout[:80]!r} and failed")
    sentences = plain_lines(case.outcome.stderr)
    case.unless(len(sentences) == 1, f"{len(sentences)} user sentences instead of one: {sentences}")
    message = case.outcome.user_message
    case.unless(0 < len(message) <= _MESSAGE_LIMIT and "\n" not in message, f"the user would read {message!r}")
    case.unless(bool(sentences) and sentences[0] in message, f"the user would read {message!r}, not {sentences}")
    if case.call.action in ("rm", "delete"):
        case.before, case.after = _without_deletion_marks(case.before), _without_deletion_marks(case.after)
    if ends_migration:
        migration_rules.half_done(case)
    else:
        case.after = migration_rules.taken_back(case)
        # The datastore's own directory, in which no VM has been yet, is nobody's.
        case.nothing_else_changed(files=[disk_rules.parents(spot)[-1] for spot in facts.places(case.call)])


def _without_deletion_marks(moment: Snapshot) -> Snapshot:
    """A refused deletion may leave the mark that nobody wants the volume any more."""
    definitions = {}
    for name, item in moment.definitions.items():
        props = {key: value for key, value in item.props.items() if (key, value) != ("Aux/one/STATE", "deleting")}
        definitions[name] = replace(item, props=props)
    return replace(moment, definitions=definitions)


def succeeded(case: Case) -> None:
    """Judge a call that had to succeed by the rule of its action."""
    if not case.unless(case.outcome.success, f"exit code {case.outcome.code}: {case.outcome.stderr[-800:].strip()}"):
        return
    case.unless(not plain_lines(case.outcome.stderr), f"stderr of a success: {case.outcome.stderr[-300:]!r}")
    RULES[case.call.kind, case.call.action](case)


RULES: dict[tuple[str, str], Callable[[Case], None]] = {
    ("ds", "stat"): image_rules.stat, ("ds", "cp"): image_rules.cp, ("ds", "mkfs"): image_rules.mkfs,
    ("ds", "clone"): image_rules.clone, ("ds", "rm"): image_rules.rm, ("ds", "monitor"): image_rules.monitor,
    ("tm", "clone"): disk_rules.clone, ("tm", "ln"): disk_rules.ln, ("tm", "mkimage"): disk_rules.mkimage,
    ("tm", "mkswap"): disk_rules.mkswap, ("tm", "context"): disk_rules.context, ("tm", "delete"): disk_rules.delete,
    ("tm", "mvds"): disk_rules.mvds, ("tm", "monitor"): image_rules.monitor, ("tm", "mv"): moving_rules.mv,
    ("tm", "premigrate"): migration_rules.premigrate, ("tm", "postmigrate"): migration_rules.postmigrate,
    ("tm", "failmigrate"): migration_rules.failmigrate,
    ("tm", "snap_create"): snapshot_rules.snap_create, ("tm", "snap_create_live"): snapshot_rules.snap_create,
    ("tm", "snap_delete"): snapshot_rules.snap_delete, ("tm", "snap_revert"): snapshot_rules.snap_revert,
    ("ds", "snap_delete"): snapshot_rules.snap_delete, ("ds", "snap_revert"): snapshot_rules.snap_revert,
    ("ds", "snap_flatten"): snapshot_rules.snap_flatten,
    ("tm", "prebackup"): backup_rules.prebackup, ("tm", "prebackup_live"): backup_rules.prebackup,
    ("tm", "postbackup"): backup_rules.postbackup, ("tm", "postbackup_live"): backup_rules.postbackup,
    ("tm", "restore"): backup_rules.restore,
    ("vmm", "save_linstor_un"): checkpoint_rules.save, ("vmm", "restore_linstor_un"): checkpoint_rules.restore,
    ("tm", "resize"): volume_rules.resize, ("tm", "cpds"): volume_rules.cpds, ("ds", "export"): volume_rules.export,
}
