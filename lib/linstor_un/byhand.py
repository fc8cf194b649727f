"""The door for a person: a script called with a flag explains itself, or checks what it depends on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Callable, Optional

import click

from . import __version__, wiring
from .errors import BAD_REQUEST, FAILED, DriverError
from .onexml import Datastore
from .undo import Undo
from .world import World

# LS_TIMEOUT at most, while a person waits.
_PATIENCE = 10


class _Said:
    """The trail on a terminal."""

    def debug(self, text: str) -> None:
        """Say it to the terminal."""
        click.echo(text, err=True)

    info = warn = debug


def run(action: str, usage: str, arguments: Sequence[str]) -> int:
    """Do what the flags ask for and return the exit code.

    Arguments: action, "tm.clone"; usage, the script's docstring; arguments, those of the script, a flag first.
    """
    command = click.Command(
        action.partition(".")[2],
        help="\b\n" + usage.strip().replace("\n\n", "\n\n\b\n"),
        params=[
            click.Option(["--version"], is_flag=True, help="Tell the driver's version."),
            click.Option(["--check"], is_flag=True, help="Check settings, oned and LINSTOR; change nothing."),
            click.Argument(["datastore"], type=int, required=False, metavar="[DATASTORE_ID]"),
        ],
        callback=_answer,
    )
    try:
        code = command.main(list(arguments), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return BAD_REQUEST
    return int(code or 0)


def _answer(version: bool, check: bool, datastore: Optional[int]) -> int:
    if version:
        click.echo(__version__)
        return 0
    if check:
        return _check(datastore)
    raise click.UsageError("give --help, --version or --check")


def _check(datastore_id: Optional[int]) -> int:
    """Ask everything that an action depends on; only reads."""
    try:
        world = wiring.build(os.environ, _Said(), Undo())
    except DriverError as error:
        click.echo(f"FAILED  {error}")
        return FAILED
    steps: list[Callable[[], str]] = [lambda: _oned(world), lambda: _controller(world, datastore_id)]
    return max(_step(step) for step in steps)


def _step(step: Callable[[], str]) -> int:
    try:
        click.echo(f"ok      {step()}")
    except DriverError as error:
        click.echo(f"FAILED  {error}")
        return error.exit_code
    return 0


def _oned(world: World) -> str:
    hosts = world.cloud.hosts()
    return f"oned answers; {sum(host.usable for host in hosts)} of {len(hosts)} hosts can be used"


def _controller(world: World, datastore_id: Optional[int]) -> str:
    # Without a datastore only linstor_un.conf speaks.
    nobody = Datastore(0, "", 0, "", "", "", {})
    datastore = nobody if datastore_id is None else world.cloud.datastore(datastore_id)
    settings = world.settings(datastore)
    nodes = world.connect(settings._replace(timeout=min(settings.timeout, _PATIENCE))).nodes()
    return f"LINSTOR's controller answers; {sum(node.online for node in nodes)} of {len(nodes)} nodes are online"
