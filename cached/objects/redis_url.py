"""What may stand in `[objects] redis`, and which servers are safe to send objects to.

    unix://[:PASSWORD@]/PATH                                       one server on this machine, by its socket
    redis://[[USER]:PASSWORD@]HOST:PORT[/DB]                       a server or cluster on this machine
    rediss://[USER]:PASSWORD@HOST:PORT[/DB][?ca=/PATH.pem]         a server or cluster anywhere, by TLS

`?password_file=/PATH` keeps the password out of the configuration; several URLs, separated by commas, are
members of one Redis Cluster, of which any one live suffices. The schemes are those that redis clients share.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from cached.errors import BadConfig

PORT: Final = 6379
_ALLOWED: Final = {
    "unix": {"password_file", "db"},
    "redis": {"password_file"},
    "rediss": {"password_file", "ca"},
}
_HINT: Final = (
    "unix:///run/redis/redis.sock, redis://127.0.0.1:6379, or rediss://:PASSWORD@HOST:6379?ca=/PATH.pem; "
    "several URLs, separated by commas, for a cluster"
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One server, and how to talk to it."""

    #: Empty when it is reached by `path`.
    host: str = ""
    port: int = 0
    #: Of a Unix socket; empty for TCP.
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    #: File that holds the password; empty: none.
    password_file: str = ""
    tls: bool = False
    #: File of the authorities that are trusted, PEM; empty: those of this machine.
    ca: str = ""

    def __str__(self) -> str:
        return self.path or f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Target({self})"

    def sibling(self, host: str, port: int) -> Target:
        """Return another member of the same cluster, spoken to in the same way.

        Raises:
            BadConfig: it must not be spoken to in that way.
        """
        found = msgspec.structs.replace(self, host=host, port=port)
        _check_place(found)
        return found


def targets(url: str) -> tuple[Target, ...]:
    """Read `[objects] redis`; raises `BadConfig` with a hint, which never holds a password."""
    found = tuple(_target(part.strip()) for part in url.split(","))
    if len(found) > 1 and any(each.path or each.db for each in found):
        raise BadConfig(
            "objects.redis: members of a cluster are named by host and port, and have no databases",
            hint=_HINT,
        )
    if len({each.tls for each in found}) > 1:
        raise BadConfig("objects.redis: either all members of a cluster speak TLS or none", hint=_HINT)
    return found


def check(url: str) -> None:
    """Refuse what is no URL of a server, or of one that others could listen to; raises `BadConfig`."""
    targets(url)


def _target(written: str) -> Target:
    if re.search(r"[/?#].*@", written.partition("://")[2]):
        raise BadConfig(
            "objects.redis: the password ends where it should not",
            hint="write its special characters as %XX: / as %2F, ? as %3F, # as %23, @ as %40, a comma as %2C",
        )
    try:
        split = urlsplit(written)
        port = split.port
        query = dict(parse_qsl(split.query, keep_blank_values=True, strict_parsing=bool(split.query)))
    except ValueError:
        raise BadConfig("objects.redis is not a URL", hint=_HINT) from None
    if split.scheme not in _ALLOWED or split.fragment:
        raise BadConfig("objects.redis: the URL of a server begins with unix, redis or rediss", hint=_HINT)
    if set(query) - _ALLOWED[split.scheme]:
        known = ", ".join(sorted(_ALLOWED[split.scheme]))
        raise BadConfig(
            "objects.redis: an option after ? is not known", hint=f"known for {split.scheme}: {known}"
        )
    found = Target(
        host=(split.hostname or "") if split.scheme != "unix" else "",
        port=(PORT if port is None else port) if split.scheme != "unix" else 0,
        path=_path(split) if split.scheme == "unix" else "",
        db=_number(query.get("db", "") if split.scheme == "unix" else split.path.removeprefix("/")),
        username=unquote(split.username or ""),
        password=unquote(split.password or ""),
        password_file=_absolute(query.get("password_file", "")),
        tls=split.scheme == "rediss",
        ca=_absolute(query.get("ca", "")),
    )
    _check_place(found)
    return found


def _path(split: SplitResult) -> str:
    """Return the path of a Unix socket, which begins after an empty host."""
    if split.hostname or not split.path.startswith("/") or split.path == "/":
        raise BadConfig("objects.redis: a unix URL names the absolute path of a socket", hint=_HINT)
    return unquote(split.path)


def _number(written: str) -> int:
    if not re.fullmatch(r"\d{0,4}", written, re.ASCII):
        raise BadConfig("objects.redis: a database is a number", hint=_HINT)
    return int(written or 0)


def _absolute(path: str) -> str:
    if path and not path.startswith("/"):
        raise BadConfig("objects.redis: a file is not named by its absolute path", hint=_HINT)
    return path


def _check_place(target: Target) -> None:
    """Refuse what would go over a network in the clear, or to whoever asks."""
    if target.path:
        return
    if not target.host or not target.port:
        raise BadConfig("objects.redis: the URL names no host, or no port", hint=_HINT)
    if _is_loopback(target.host):
        return
    if not target.tls:
        raise BadConfig(
            f"objects.redis: {target} is another machine, and without TLS others could read and change what "
            "goes there",
            hint=f"rediss://:PASSWORD@{target}?ca=/PATH.pem, with `tls-port` in the server's configuration",
        )
    if not (target.password or target.password_file):
        raise BadConfig(
            f"objects.redis: {target} is another machine, and the URL has no password",
            hint=f"set `requirepass` there, and write rediss://{target}?password_file=/PATH",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
