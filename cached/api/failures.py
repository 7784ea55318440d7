"""What a caller may know of an error that nobody expected: the disk's in words, anything else without its insides."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from cached.errors import CachedError, NoSpace

log = logging.getLogger(__name__)

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_FAILING: Final = {errno.EIO, errno.EROFS, errno.EUCLEAN, errno.ENODEV, errno.ENXIO}


class HttpLog(logging.LoggerAdapter[logging.Logger]):
    """The log of an HTTP server: what is no HTTP is its sender's mistake, counted by `malformed`, told in one line.

    That a client left before it had its answer is nothing to report.
    """

    def __init__(self, malformed: Callable[[], None]) -> None:
        super().__init__(log)
        self._malformed = malformed

    def exception(self, msg: object, *args: object, exc_info: Any = True, **kwargs: Any) -> None:
        """Log an error that the server met."""
        if isinstance(exc_info, HttpProcessingError):
            self._malformed()
            log.info("request.malformed status=%s", exc_info.code)
        elif isinstance(exc_info, ConnectionError):
            log.debug("request.left reason=%s", exc_info)
        else:
            super().exception(msg, *args, exc_info=exc_info, **kwargs)


class Discreet(RequestHandler):
    """An HTTP connection that does not repeat to its sender what is no HTTP: an access token may stand in it."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what went wrong before anybody could serve the request."""
        words = (
            message if status == 500 else "this is no HTTP request, or one with a header or line too long\n"
        )
        return super().handle_error(request, status, exc, words)


def discreet(server: web.Server) -> Discreet:
    """Make the protocol of a new connection; the library lets nobody say which kind it makes."""
    made: Any = server()
    made.__class__ = Discreet
    return made  # type: ignore[no-any-return]


def unexpected(op: str, error: BaseException) -> CachedError:
    """Log what should not have happened while `op` was served, and return the error that its caller gets."""
    if _of_the_disk(error):
        log.error("request.failed op=%s reason=%s", op, error)
    else:
        log.error("request.failed op=%s", op, exc_info=error)
    return in_words(error)


def in_words(error: BaseException) -> CachedError:
    """Return the error that a caller gets."""
    if not _of_the_disk(error):
        return CachedError("the daemon met an unexpected error", hint="its log has the details")
    if isinstance(error, OSError) and error.errno in _FULL:
        return NoSpace("the node's disk is full", hint="free space on the node's partitions, then try again")
    return CachedError(
        f"the node's disk fails: {error}", hint="tell its operator; another node may have the set"
    )


def _of_the_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL | _FAILING
