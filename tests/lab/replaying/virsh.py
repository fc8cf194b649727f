"""virsh of the replay's hosts: domains as files below /run/domains, their disks held open by a process each.

A host runs this file as /usr/local/bin/virsh. What it says on errors is what libvirt 9 says. Memory is not saved, but
a save takes as much room as the memory. A domain answers to its agent when its document has the agent's channel.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn, Optional

PLACE = Path("/run/domains")
MAGIC = b"LibvirtQemudSave of the replay\n"
STOCK_FAILURE = 5
"""How OpenNebula's own scripts end here when they are to fail."""
_AGENT = "org.qemu.guest_agent.0"


def fail(*lines: str) -> NoReturn:
    """End as virsh does when something went wrong."""
    print("\n".join(f"error: {line}" for line in lines), file=sys.stderr)
    sys.exit(1)


def say(text: str) -> None:
    """Tell of a success, unless only errors are wanted."""
    if not {"-q", "--quiet"} & set(sys.argv):
        print(text)


def find(name: str) -> Path:
    """Return the directory of a domain by name, UUID, or what the deployment answered."""
    for place in sorted(PLACE.iterdir()):
        text = (place / "xml").read_text() if (place / "xml").is_file() else ""
        if text and (place.name == name or f"<name>{name}</name>" in text or f"<uuid>{name}</uuid>" in text):
            return place
    fail(f"failed to get domain '{name}'")


def key(document: str) -> str:
    """Return what a domain is known by here: its UUID, or its name where it has none."""
    found = re.search(r"<uuid>([^<]+)</uuid>", document) or re.search(r"<name>([^<]+)</name>", document)
    assert found
    return found[1]


def drives(document: str) -> list[tuple[str, str]]:
    """Return (mode, path) of each disk of a domain's document; only "rw" and "ro" are known modes."""
    found = []
    for disk in re.findall(r"<disk\b.*?</disk>", document, re.DOTALL):
        path = re.search(r"<source (?:dev|file)=['\"]([^'\"]+)", disk)
        if path:
            readonly = "<readonly" in disk or re.search(r"device=['\"]cdrom", disk)
            found.append(("ro" if readonly else "rw", path[1]))
    return found


def flat(path: str) -> str:
    """Return a path without the double slashes that oned writes."""
    return re.sub("/+", "/", path)


def hold(place: Path, mode: str, path: str) -> None:
    """Let a process keep a disk of the domain open; OSError when it cannot be opened."""
    device = os.open(path, os.O_RDWR if mode == "rw" else os.O_RDONLY)
    try:
        process = subprocess.Popen(
            ["sleep", "infinity"], pass_fds=[device], start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
    finally:
        os.close(device)
    with open(place / "pids", "a", encoding="utf-8") as file:
        file.write(f"{process.pid} {path}\n")


def let_go(place: Path, path: str = "") -> None:
    """Close one disk of a domain, or all."""
    kept = []
    pids = place / "pids"
    for line in pids.read_text().splitlines() if pids.exists() else ():
        number, _, held = line.partition(" ")
        if path and flat(held) != flat(path):
            kept.append(line + "\n")
            continue
        _kill(int(number))
    pids.write_text("".join(kept))


def _kill(number: int) -> None:
    """End a process and wait until it holds nothing open."""
    try:
        os.kill(number, signal.SIGKILL)
        while os.listdir(f"/proc/{number}/fd"):
            time.sleep(0.001)
    except OSError:
        return


def start(place: Path, document: str, state: str) -> None:
    """Make a domain that has its disks open, or nothing at all (OSError)."""
    place.mkdir(parents=True)
    try:
        for mode, path in drives(document):
            hold(place, mode, path)
    except OSError:
        end(place)
        raise
    (place / "state").write_text(state)
    (place / "xml").write_text(document)


def end(place: Path) -> None:
    """Let a domain be no more."""
    let_go(place)
    for entry in place.iterdir():
        entry.unlink()
    place.rmdir()


def say_state(name: str, *options: str) -> None:
    state = (find(name) / "state").read_text()
    reason = {"running": " (booted)", "paused": " (user)"}.get(state, "") if "--reason" in options else ""
    print(f"{state}{reason}\n")


def say_uuid(name: str, *options: str) -> None:
    found = re.search(r"<uuid>([^<]+)</uuid>", (find(name) / "xml").read_text())
    print(f"{found[1] if found else '00000000-0000-4000-8000-000000000001'}\n")


def abort_job(name: str, *options: str) -> None:
    """Refuse as libvirt does when nothing is under way: what is under way here ends at once."""
    find(name)
    fail("Requested operation is not valid: no job is active on the domain")


def dump(name: str, *options: str) -> None:
    print((find(name) / "xml").read_text())


def memory(name: str, *options: str) -> None:
    size = re.search(r"<memory[^>]*>(\d+)", (find(name) / "xml").read_text())
    print(f"actual {size[1] if size else 0}\nrss {int(size[1]) // 2 if size else 0}\n")


def info(name: str, *options: str) -> None:
    place = find(name)
    size = re.search(r"<memory[^>]*>(\d+)", (place / "xml").read_text())
    print(f"Name:           {place.name}\nMax memory:     {size[1] if size else 0} KiB\nPersistent:     no\n")


def suspend(name: str) -> None:
    (find(name) / "state").write_text("paused")
    say(f"Domain '{name}' suspended\n")


def resume(name: str) -> None:
    place = find(name)
    if (place / "state").read_text() == "running":
        fail(f"Failed to resume domain '{name}'", "Requested operation is not valid: domain is already running")
    (place / "state").write_text("running")
    say(f"Domain '{name}' resumed\n")


def freeze(name: str) -> None:
    place = find(name)
    if _AGENT not in (place / "xml").read_text():
        fail("Unable to freeze filesystems", "argument unsupported: QEMU guest agent is not configured")
    (place / "frozen").touch()
    say("Froze 1 filesystem(s)\n")


def thaw(name: str) -> None:
    place = find(name)
    if _AGENT not in (place / "xml").read_text():
        fail("Unable to thaw filesystems", "argument unsupported: QEMU guest agent is not configured")
    (place / "frozen").unlink(missing_ok=True)
    say("Thawed 1 filesystem(s)\n")


def save(name: str, path: str, *options: str) -> None:
    place = find(name)
    document, state = (place / "xml").read_text(), (place / "state").read_text()
    try:
        if (PLACE / ".no-save").exists():
            raise OSError(5, "Input/output error")
        size = re.search(r"<memory[^>]*>(\d+)", document)
        device = _is_device(path)
        with open(os.open(path, os.O_WRONLY if device else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(packed(_wanted(options, state), document))
            if device and size:
                file.seek(int(size[1]) << 10)
                file.write(b"\1" * 4096)
    except OSError as error:
        fail(f"Failed to save domain '{name}' to {path}", f"operation failed: Unable to write {path}: {error.strerror}")
    end(place)
    say(f"\nDomain '{name}' saved to {path}\n")


def _is_device(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode)


def _wanted(options: tuple[str, ...], state: str) -> str:
    return "running" if "--running" in options else "paused" if "--paused" in options else state


def packed(state: str, document: str) -> bytes:
    """Return what a saved domain begins with."""
    return MAGIC + f"{state} {len(document.encode())}\n".encode() + document.encode()


def image(path: str) -> tuple[str, str]:
    """Return (state, document) of a saved domain."""
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                fail("operation failed: image magic is incorrect")
            state, _, size = file.readline().decode().partition(" ")
            return state, file.read(int(size)).decode()
    except OSError as error:
        fail(f"Failed to open file '{path}': {error.strerror}")


def restore(path: str, *options: str) -> None:
    state, document = image(path)
    if "--xml" in options:
        document = Path(options[options.index("--xml") + 1]).read_text()
    if (PLACE / ".no-restore").exists():
        fail(f"Failed to restore domain from {path}", "internal error: qemu unexpectedly closed the monitor")
    _start(f"Failed to restore domain from {path}", document, _wanted(options, state))
    say(f"Domain restored from {path}\n")


def create(path: str) -> None:
    _start(f"Failed to create domain from {path}", Path(path).read_text(), "running")


def _start(trouble: str, document: str, state: str) -> None:
    try:
        start(PLACE / key(document), document, state)
    except FileExistsError:
        fail(trouble, f"operation failed: domain '{key(document)}' is already active")
    except OSError as error:
        fail(trouble, f"Cannot access storage file '{error.filename}': {error.strerror}")


def attach(name: str, path: str) -> None:
    place, disk = find(name), Path(path).read_text()
    try:
        for mode, source in drives(disk):
            hold(place, mode, source)
    except OSError as error:
        fail(f"Failed to attach device from {path}", f"Cannot access storage file '{error.filename}': {error.strerror}")
    (place / "xml").write_text((place / "xml").read_text().replace("</devices>", disk + "</devices>", 1))


def detach(name: str, path: str) -> None:
    """Take the disk at a path from a domain."""
    place = find(name)
    let_go(place, path)
    kept = re.sub(r"<disk\b.*?</disk>", lambda found: "" if flat(path) in flat(found[0]) else found[0],
                  (place / "xml").read_text(), flags=re.DOTALL)
    (place / "xml").write_text(kept)


def dump_image(path: str, *options: str) -> None:
    print(image(path)[1])


def listing(*options: str) -> None:
    names = sorted(place.name for place in PLACE.iterdir() if place.is_dir())
    print("\n".join(names) + "\n")


def nothing(name: str, *options: str) -> None:
    """Do what changes nothing that the replay looks at."""
    find(name)


def destroy(name: str) -> None:
    end(find(name))
    say(f"Domain '{name}' destroyed\n")


COMMANDS = {
    "domstate": say_state, "dumpxml": dump, "dommemstat": memory, "dominfo": info, "domuuid": say_uuid,
    "domjobabort": abort_job,
    "suspend": suspend, "resume": resume, "domfsfreeze": freeze, "domfsthaw": thaw, "save": save, "restore": restore,
    "save-image-dumpxml": dump_image, "list": listing, "destroy": destroy, "create": create,
    "attach-device": attach, "detach-disk": detach, "domtime": nothing,
    "dompmwakeup": nothing, "snapshot-create": nothing, "blockjob": nothing, "qemu-agent-command": nothing,
}
_WITH_VALUE = ("-c", "--connect", "-k", "-K", "-d", "-l")


def main(argv: list[str]) -> None:
    """Run one command as virsh would."""
    words = iter(argv)
    command: Optional[str] = None
    for word in words:
        if word in _WITH_VALUE:
            next(words)
        elif not word.startswith("-"):
            command = word
            break
    with open(PLACE / ".log", "a", encoding="utf-8") as log:
        log.write(" ".join(argv) + "\n")
    if command not in COMMANDS:
        (PLACE / ".unknown").write_text(" ".join(argv))
        fail(f"unknown command: '{command}'")
    COMMANDS[command](*words)


if __name__ == "__main__":
    main(sys.argv[1:])
