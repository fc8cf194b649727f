"""Where LINSTOR's controllers are, and with which certificates and token they are met."""

from __future__ import annotations

import configparser
import os
import ssl
from urllib.parse import urlsplit

import linstor

from ..errors import BadRequest
from ..settings import Settings

_SCHEMES = {"linstor", "linstor+ssl", "http", "https"}


def controller_uris(settings: Settings) -> list[str]:
    """Return the controllers to try, in order.

    LS_CONTROLLERS of the datastore wins; else the environment and linstor-client.conf decide as for the
    `linstor` client, and localhost is the last resort.
    Raises BadRequest for an entry that is no controller address, and for an unreadable linstor-client.conf.
    """
    try:
        uris: list[str] = (
            linstor.MultiLinstor.controller_uri_list(",".join(settings.controllers))
            if settings.controllers
            else linstor.Config.get_controllers()
        )
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"linstor-client.conf cannot be read ({error}); correct it or set LS_CONTROLLERS")
    uris = [uri.strip() for uri in uris if uri.strip()]
    for uri in uris:
        try:
            parts = urlsplit(uri)
            good = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0 and uri.isprintable()
        except ValueError:
            good = False
        if not good or " " in uri:
            raise BadRequest(f"LS_CONTROLLERS: {uri!r} is no address; write HOST, HOST:PORT or linstor+ssl://HOST")
    if not uris:
        raise BadRequest("LS_CONTROLLERS names no controller; write HOST, HOST:PORT or linstor+ssl://HOST")
    return uris


def check_files(settings: Settings) -> None:
    """Raise BadRequest when a TLS file that a setting names cannot be used; OpenSSL would not say which one."""
    named = {"LS_CERTFILE": settings.certfile, "LS_KEYFILE": settings.keyfile, "LS_CAFILE": settings.cafile}
    for attribute, path in named.items():
        try:
            with open(path or os.devnull, "rb"):
                pass
        except OSError as error:
            raise BadRequest(f"{attribute}: {path} cannot be read ({error.strerror}); correct path or permissions")
    if settings.keyfile and not settings.certfile:
        raise BadRequest("LS_KEYFILE is set without LS_CERTFILE; set both or none")
    if not (settings.certfile or settings.cafile):
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.certfile:
            # An answer to OpenSSL's question for a passphrase, which would wait for a terminal.
            context.load_cert_chain(settings.certfile, settings.keyfile or None, password="")
        if settings.cafile:
            context.load_verify_locations(settings.cafile)
    except (ssl.SSLError, ValueError) as error:
        files = ", ".join(f"{attribute} ({path})" for attribute, path in named.items() if path)
        raise BadRequest(f"not usable as PEM files without passphrase: {files}: {error}")


def read_token(path: str) -> str:
    """Return the bearer token in a file (LS_TOKEN_FILE).

    Raises BadRequest when the file cannot be read, is empty, or holds what no HTTP header can carry.
    """
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(16384).strip()
    except OSError as error:
        raise BadRequest(f"LS_TOKEN_FILE: {path} cannot be read ({error.strerror}); correct path or permissions")
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise BadRequest(f"LS_TOKEN_FILE: {path} holds no token; write the token of `linstor auth` into it")
    return token
