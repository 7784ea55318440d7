"""Every error a caller can meet: a stable code, an exit code, an HTTP status, and words that say what to do next.

The tree is split by who must act. The message says what happened, `hint` the next step, `details` the facts for
programs. Codes and exit codes are a contract with scripts: add to them, never change them.
"""

from __future__ import annotations

from typing import Any, ClassVar


class CachedError(Exception):
    """Something went wrong; the base of all errors that cross an interface."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, Any] = details
        if hint:
            self.add_note(f"hint: {hint}")  # so that a traceback says it too

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON value `{"error": {...}}` that carries this error on sockets and on stderr."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "details": self.details,
            }
        }

    @staticmethod
    def from_wire(value: dict[str, Any]) -> CachedError:
        """Rebuild the error that `to_wire` wrote; an unknown code becomes a plain `CachedError`."""
        body = value.get("error", value)
        kind = _BY_CODE.get(str(body.get("code")), CachedError)
        details = body.get("details")
        error = kind(str(body.get("message", "unknown error")), hint=str(body.get("hint", "")))
        error.details = dict(details) if isinstance(details, dict) else {}
        return error


# The caller must change the request.


class UsageError(CachedError):
    """The request is not well formed."""

    code, exit_code, status = "usage", 2, 400


class BadName(UsageError):
    """A set name, owner, or path breaks the rules for names."""

    code = "bad_name"


class BadExpression(UsageError):
    """A ClassAd expression cannot be parsed, is too long, or uses a function that is not allowed."""

    code = "bad_expression"


class BadConfig(UsageError):
    """A configuration key is unknown or its value does not fit."""

    code = "bad_config"


class AmbiguousName(UsageError):
    """Several sets answer to the name; `details["candidates"]` lists them."""

    code, status = "ambiguous_name", 409


class NotFound(CachedError):
    """It does not exist, or the caller may not know that it does."""

    code, exit_code, status = "not_found", 3, 404


class Forbidden(CachedError):
    """The caller may see it, but may not do this to it."""

    code, exit_code, status = "forbidden", 4, 403


class Refused(CachedError):
    """The node will not do this, for the reason given."""

    code, exit_code, status = "refused", 5, 409


class LeaseRefused(Refused):
    """The lease asked for cannot be granted; `details` name the longest that can."""

    code = "lease_refused"


class NoSpace(Refused):
    """The node has too little space; `details` hold `bytes_needed` and `bytes_free`."""

    code, status = "no_space", 507


class QuotaExceeded(Refused):
    """The user's quota on this node does not allow it."""

    code = "quota_exceeded"


class RequirementsRefused(Refused):
    """The requirements of the set or of the node do not hold; `details["reasons"]` says which."""

    code = "requirements_refused"


class NameTaken(Refused):
    """The owner already has a set of that name with other content or options."""

    code = "name_taken"


class Busy(Refused):
    """The node does this already, or too much of it, or is stopping: try again."""

    code, status = "busy", 503


# The world outside: try again, another source, or call the operator.


class UnsupportedFile(CachedError):
    """A file cannot be part of a set: a socket, a device, a FIFO, or a link that leads outside."""

    code, status = "unsupported_file", 422


class SourceChanged(CachedError):
    """A file changed while it was read; nothing was stored."""

    code, status = "source_changed", 409


class NoSource(CachedError):
    """No reachable holder has the bytes."""

    code, status = "no_source", 503


class PeerUnreachable(CachedError):
    """A peer did not answer in time."""

    code, status = "peer_unreachable", 502


class TimedOut(CachedError):
    """The work did not end within the time allowed."""

    code, status = "timed_out", 504


class DaemonUnreachable(CachedError):
    """No daemon answers on the local socket."""

    code, exit_code, status = "daemon_unreachable", 6, 503


class OriginUnavailable(CachedError):
    """Cloud Storage did not answer, or refused for the moment; it was asked again until patience ended."""

    code, status = "origin_unavailable", 502


class OriginChanged(CachedError):
    """An object was replaced or deleted while it was read, or is not of the generation that was demanded."""

    code, status = "origin_changed", 409


class IntegrityFailed(CachedError):
    """Bytes do not match the manifest; nothing of them was served."""

    code, exit_code, status = "integrity", 7, 500


def _all(kind: type[CachedError]) -> list[type[CachedError]]:
    return [kind, *(sub for child in kind.__subclasses__() for sub in _all(child))]


_BY_CODE: dict[str, type[CachedError]] = {kind.code: kind for kind in _all(CachedError)}
