"""libvirt's description of a domain, as text: whose it is, and its paths after a move to another system datastore.

Nothing but the numbers in paths is changed, so that libvirt finds the domain that it saved.
"""

from __future__ import annotations

import re

_NAMES = r"<(name|uuid)>([^<]*)</\1>"
# What a name in a path is made of: a path begins after something else, and its last name ends before it.
_LETTER = r"[\w.-]"
# What xml.sax.saxutils knows as well, which would load a web client.
_SIGNS = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def is_of(xml: str, domain: str) -> bool:
    """Return whether a description is of the domain of this name or UUID (DEPLOY_ID)."""
    return any(_read(found[1]) == domain for found in re.findall(_NAMES, xml)[:2])


def moved(xml: str, directory: str) -> str:
    """Return the description with every path below the VM's directory, in whatever system datastore it was, where
    the directory is now.

    Arguments: directory, .../DATASTORE/VM without double slashes; oned writes some in its paths, and they stay.
    """
    base, datastore, vm = directory.rsplit("/", 2)
    location = "/+".join(re.escape(_written(name)) for name in base.split("/"))
    pattern = rf"(?<!{_LETTER}|/)({location}/+)[0-9]+(/+{re.escape(vm)})(?!{_LETTER})"
    return re.sub(pattern, lambda found: f"{found[1]}{datastore}{found[2]}", xml)


def _written(text: str) -> str:
    return "".join(_SIGNS.get(sign, sign) for sign in text)


def _read(text: str) -> str:
    for sign, written in reversed(_SIGNS.items()):
        text = text.replace(written, sign)
    return text
