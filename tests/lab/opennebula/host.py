"""What `onehost sync` puts on a host, as far as the driver meets it there: settings and stock scripts of KVM."""

from __future__ import annotations

from pathlib import Path

from lab.hosts import Hosts

FILES = Path(__file__).with_name("files")
REMOTES = "/var/tmp/one"
_SCRIPTS = {"save": "vmm/kvm/save", "restore": "vmm/kvm/restore"}
_SETTINGS = {"kvmrc": "etc/vmm/kvm/kvmrc"}


def install_host(hosts: Hosts, name: str, base: str = REMOTES) -> None:
    """Put the stand-ins of the stock scripts on a running host; they work with its libvirt (see lab.guests).

    Arguments:
        base: SCRIPTS_REMOTE_DIR.
    """
    put = 'mkdir -p "${1%/*}" && cat >"$1" && chmod "$2" "$1"'
    for files, mode in ((_SCRIPTS, "755"), (_SETTINGS, "644")):
        for file, target in files.items():
            text = (FILES / file).read_text()
            hosts.run(name, ["sh", "-c", put, "sh", f"{base}/{target}", mode], input=text)


def install_hook(hosts: Hosts, name: str, script: str, text: str, base: str = REMOTES) -> None:
    """Put a hook of a transfer driver beside the stock scripts: `script` is e.g. "save.ceph"."""
    put = 'cat >"$1" && chmod 755 "$1"'
    hosts.run(name, ["sh", "-c", put, "sh", f"{base}/vmm/kvm/{script}"], input=text)
