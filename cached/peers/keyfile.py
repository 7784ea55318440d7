"""The key file: what makes a node a member of a cluster, and the care taken of files that hold secrets.

A key file is JSON, version 1: the cluster's id, its trust anchors (several during a rotation), the signed
revocations, a secret that all members share, and either the authority itself (one file for all nodes, in a
laboratory) or one node's certificate and key. Secrets are written with mode 0600, whole or not at all, and
are not read when somebody else could have read or replaced them.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

import msgspec

from cached.errors import BadConfig
from cached.peers.records import SignedRevocations

VERSION = 1
#: Length of the secret that the members of a cluster share, in bytes.
SECRET_BYTES = 32


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate and its private key, both PEM."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Secret(...)"


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The decoded key file; exactly one of `authority` and `node` is set."""

    version: int
    #: Random id of the cluster, 16 hex digits; it names, it does not prove.
    cluster: str
    #: PEM certificates of the authorities that are trusted, the current one first.
    anchors: tuple[str, ...]
    authority: Secret | None = None
    node: Secret | None = None
    revocations: SignedRevocations | None = None
    #: 64 hex digits that only members know, for what they keep in places that others reach; empty in files
    #: made before there was one.
    secret: str = ""

    def __repr__(self) -> str:
        return f"KeyFile(cluster={self.cluster!r})"


def new_secret() -> str:
    """Return a secret for a new cluster: random, as hex digits."""
    return secrets.token_hex(SECRET_BYTES)


def read_key_file(path: Path) -> KeyFile:
    """Read a key file.

    Raises:
        BadConfig: it is missing, others can read it, or it is not a key file of a version known here.
    """
    try:
        text = read_private(path)
    except FileNotFoundError:
        raise BadConfig(
            f"the key file {path} does not exist",
            hint=f"`cached cluster init --key-file {path}` makes a cluster, or copy your cluster's file",
            path=str(path),
        ) from None
    try:
        version = msgspec.json.decode(text, type=dict).get("version")
        if version != VERSION:
            raise BadConfig(
                f"the key file {path} has version {version!r}, this program knows {VERSION}",
                hint="use a `cached` as new as the one that wrote the file",
            )
        found = msgspec.json.decode(text, type=KeyFile)
    except msgspec.MsgspecError as error:
        raise BadConfig(f"{path} is not a key file: {error}", path=str(path)) from None
    if not found.anchors or (found.authority is None) == (found.node is None):
        raise BadConfig(f"the key file {path} must hold trust anchors and either an authority or a node")
    if found.secret and not re.fullmatch(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}", found.secret, re.ASCII):
        raise BadConfig(
            f"the secret in the key file {path} is not {2 * SECRET_BYTES} hex digits, in lower case",
            hint=f"take it over from another member's key file, or make one: openssl rand -hex {SECRET_BYTES}",
        )
    return found


def write_key_file(path: Path, content: KeyFile, *, replace: bool = False) -> None:
    """Write a key file with mode 0600; unless `replace`, an existing file is left alone
    (`FileExistsError`).
    """
    write_private(path, encode_key_file(content), replace=replace)


def encode_key_file(content: KeyFile) -> bytes:
    """Return the JSON text of a key file."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def read_private(path: Path) -> bytes:
    """Read a file that holds a secret.

    Raises:
        FileNotFoundError: there is none.
        BadConfig: it is no regular file, belongs to another user, or its mode lets others in.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadConfig(
            f"cannot read {path}: {error.strerror}",
            hint=f"the daemon runs as uid {os.geteuid()}: make that user the owner, mode 0600",
            path=str(path),
        ) from None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        _check_owner(path, found, stat.S_ISREG(found.st_mode), forbidden=0o077, mode="0600")
        return file.read(4 << 20)


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file with mode 0600 so that a crash leaves the old one, the new one or none, never a part."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(staged, path)
        else:
            os.link(staged, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def private_directory(path: Path) -> Path:
    """Make the directory with mode 0700, or refuse one that others own, read or write (`BadConfig`)."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    _check_owner(path, found, stat.S_ISDIR(found.st_mode), forbidden=0o077, mode="0700")
    return path


def check_not_writable_by_others(path: Path) -> None:
    """Refuse a directory in which somebody else could exchange our files (`BadConfig`)."""
    found = path.stat()
    _check_owner(path, found, stat.S_ISDIR(found.st_mode), forbidden=0o022, mode="0755")


def _check_owner(path: Path, found: os.stat_result, right_kind: bool, *, forbidden: int, mode: str) -> None:
    problem = ""
    if not right_kind:
        problem = "is not of the kind expected"
    elif found.st_uid not in {os.geteuid(), 0}:
        problem = f"belongs to uid {found.st_uid}, not to uid {os.geteuid()}"
    elif found.st_mode & forbidden:
        problem = f"has mode {stat.S_IMODE(found.st_mode):04o}: other users could read or change it"
    if problem:
        raise BadConfig(
            f"{path} {problem}",
            hint=f"make uid {os.geteuid()} its owner and `chmod {mode} {path}`",
            path=str(path),
        )
