"""Connections of a client to the daemon of its node: reused, not shared across a fork, made again after a restart."""

from __future__ import annotations

import os
import time
from functools import cached_property
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from cached.client.channel import Channel, LostError, ObjectRequest, OpenRequest, Reply, Watcher
from cached.client.endpoint import Endpoint
from cached.client.pool import Pool
from cached.client.rest import Rest
from cached.client.token import Given, Tokens
from cached.errors import DaemonUnreachable

Answer = TypeVar("Answer", bound=Reply)

#: How long a daemon that was there a moment ago may take to come back, in seconds.
_RESTART: Final = 5.0
_RETRY_EVERY: Final = 0.05
#: Idle connections without pins that are worth keeping.
_MOST_IDLE: Final = 4
#: Longest silence of the daemon that is endured while it asks Cloud Storage, in seconds: its own patience, and some.
_ORIGIN_PATIENCE: Final = 180.0


class Session:
    """What all verbs of a client stand on.

    Nothing is connected before the first call. A set stays on the node while anything opened from it is open.
    `timeout` is the longest silence of the daemon that is endured, in seconds; long work reports all the time
    and may take longer. `token` is the access token for Cloud Storage, or what returns one; None looks for it in the
    usual places (see `cached.client.token`).
    """

    def __init__(
        self,
        runtime_dir: str | os.PathLike[str] | None = None,
        timeout: float = 30.0,
        *,
        token: Given = None,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._endpoint = Endpoint(runtime_dir)
        self._timeout = timeout
        self._tokens = Tokens(token)
        self._channels: Pool[Channel] = Pool(lambda: Channel(self._endpoint, timeout), _close_unless_pinning)

    def close(self) -> None:
        """Close connections through which nothing is open; the others close with their last file."""
        self._channels.clear()
        for made in ("_rest", "_origin"):
            if made in self.__dict__:
                getattr(self, made).close()

    @cached_property
    def _rest(self) -> Rest:
        """Requests over HTTP; a program that only opens files makes none."""
        return Rest(self._endpoint, self._timeout)

    @cached_property
    def _origin(self) -> Rest:
        """The same, for those that wait for Cloud Storage."""
        return Rest(self._endpoint, max(self._timeout, _ORIGIN_PATIENCE))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._runtime_dir, self._timeout, self._tokens.given)

    def _descriptor(
        self, request: OpenRequest | ObjectRequest, kind: type[Answer], watcher: Watcher | None
    ) -> tuple[Channel, Answer, int]:
        """Ask for a descriptor (-1: none came); a daemon that restarts meanwhile is asked again."""
        patience: _Patience | None = None
        while True:
            try:
                channel, used = self._channels.take()
            except DaemonUnreachable:
                if patience is not None and patience.until_it_is_back():
                    continue
                raise
            try:
                reply, descriptor = channel.open(request, kind, watcher)
            except LostError as error:
                patience = patience or _Patience()
                if patience.after_a_loss(used=used):
                    continue
                raise DaemonUnreachable(
                    "the daemon went away before it answered", hint="ask again"
                ) from error
            finally:
                self._keep(channel)
            return channel, reply, descriptor

    def _keep(self, channel: Channel) -> None:
        """Keep a connection for reuse. One that is not kept closes with the last file that was opened through
        it.
        """
        if channel.usable and (channel.pinning or len(self._channels) < _MOST_IDLE):
            self._channels.give(channel)
        elif not channel.pinning:
            channel.close()


class _Patience:
    """A daemon that was there a moment ago may be restarting."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _RESTART
        self._losses = 0

    def after_a_loss(self, *, used: bool) -> bool:
        """Tell whether to ask again after a connection was lost; an old one says little of the daemon."""
        self._losses += not used
        return self._losses <= 1

    def until_it_is_back(self) -> bool:
        """Wait a little and tell whether to try again."""
        if time.monotonic() >= self._until:
            return False
        time.sleep(_RETRY_EVERY)
        return True


def _close_unless_pinning(channel: Channel) -> None:
    if not channel.pinning:
        channel.close()


def _again(
    kind: type[Session], runtime_dir: str | os.PathLike[str] | None, timeout: float, token: Given
) -> Session:
    """Return the client of a pickle."""
    return kind(runtime_dir, timeout, token=token)
