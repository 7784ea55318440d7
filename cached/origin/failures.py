"""What went wrong at the origin: third-party exceptions end here and become words, and errors of ours."""

from __future__ import annotations

from typing import Final

import msgspec

from cached.addresses import Address, Prefix
from cached.errors import CachedError, Forbidden, IntegrityFailed, NotFound, OriginChanged, OriginUnavailable

#: Answers that mean "ask again" (Cloud Storage, "Retry strategy").
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})
_RENEW: Final = "renew the credentials: `gcloud auth login` for a user's token, else the account of the node"
_ACCOUNT: Final = "its operator names one: [origin] credentials, or Application Default Credentials"
_LOG_IN: Final = "set CACHED_GCS_TOKEN_FILE or CACHED_GCS_TOKEN, or log in with gcloud"
_ASK: Final = "ask the owner of the bucket for access (roles/storage.objectViewer, or objectUser to write)"
_LOOK: Final = "look for a misspelling; cached localize brings a directory, with a / at its end"
_WAIT: Final = "try again later; the network, the endpoint and Cloud Storage's status page may say more"


class Failed(Exception):
    """One request failed. `cause` is a short name for counters; `status` 0 when there was no answer at all.

    `lacking` is what to do where no credentials went with the request, though some were needed.
    """

    def __init__(
        self, cause: str, text: str, *, status: int = 0, transient: bool = False, lacking: str = ""
    ) -> None:
        super().__init__()
        self.cause, self.text, self.status, self.transient = cause, text, status, transient
        self.lacking = lacking

    def __str__(self) -> str:
        return self.text


def translate(error: Exception, secret: str | None) -> Failed | None:
    """Return what a library's exception means; None for one that is not the origin's doing.

    `secret`, the token, is struck out, should an answer repeat it; None: the node's own account asked.
    """
    failed = _meant(error, secret)
    if failed is not None and secret:
        failed.text = failed.text.replace(secret, "...")
    return failed


def _meant(error: Exception, secret: str | None) -> Failed | None:
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import InvalidResponse
    from urllib3.exceptions import HTTPError

    if isinstance(error, Failed):
        return error
    if isinstance(error, GoogleAPICallError | InvalidResponse):
        return answered(getattr(error, "response", None))
    if isinstance(error, GoogleAuthError):
        return _credentials(error, secret)
    if isinstance(error, requests.RequestException | HTTPError | ConnectionError | TimeoutError):
        return _network(error)
    return None


def answered(response: object) -> Failed:
    """Return what an answer other than success means."""
    status = int(getattr(response, "status_code", 0) or 0)
    text, reason = _said(response)
    text = " ".join(text.split())[:400]
    limited = status == 403 and reason in ("rateLimitExceeded", "userRateLimitExceeded")
    transient = status in _TRANSIENT or limited
    return Failed(f"http_{status}", f"HTTP {status}: {text}".rstrip(": "), status=status, transient=transient)


def refusal(failed: Failed, about: Address | Prefix) -> CachedError:
    """Return the error that a caller meets: it names the object and the cause."""
    if failed.transient or not failed.status:
        return OriginUnavailable(f"{about}: Cloud Storage does not answer: {failed.text}", hint=_WAIT)
    if failed.status == 404:
        return _absent(failed, about)
    if failed.lacking:
        return Forbidden(f"{about}: not everybody may do this, and {failed.text}", hint=failed.lacking)
    if failed.status == 401:
        return Forbidden(
            f"{about}: Cloud Storage does not accept the credentials: {failed.text}", hint=_RENEW
        )
    if failed.status == 403:
        return Forbidden(f"{about}: Cloud Storage denies it: {failed.text}", hint=_ASK)
    if failed.status in (412, 416):
        return OriginChanged(f"{about} is not what it was: {failed.text}", hint="look at it again")
    if failed.status == 400 and ("crc32c" in failed.text.lower() or "hash" in failed.text.lower()):
        return IntegrityFailed(f"{about}: Cloud Storage received other bytes: {failed.text}")
    return OriginUnavailable(f"{about}: Cloud Storage refuses: {failed.text}", hint=_WAIT)


def _absent(failed: Failed, about: Address | Prefix) -> CachedError:
    if isinstance(about, Prefix) or "bucket does not exist" in failed.text.lower():
        return NotFound(
            f"no such bucket: gs://{about.bucket} ({failed.text})",
            hint="look for a misspelling",
            bucket=about.bucket,
        )
    if about.generation is not None:
        return OriginChanged(
            f"{about} was replaced or deleted: {failed.text}", hint="open it again for what is there now"
        )
    return NotFound(f"no such object: {about} ({failed.text})", hint=_LOOK)


def _said(response: object) -> tuple[str, str]:
    """Return the message in an answer, and the machine's word for the reason."""
    content = getattr(response, "content", None) or b""
    try:
        error = msgspec.json.decode(content, type=dict[str, dict[str, object]])["error"]
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError):
        return bytes(content[:400]).decode(errors="replace"), ""
    details = error.get("errors")
    first = details[0] if isinstance(details, list) and details else {}
    return str(error.get("message", "")), str(first.get("reason", "")) if isinstance(first, dict) else ""


def _credentials(error: Exception, secret: str | None) -> Failed:
    """Credentials that cannot be renewed are like an answer 401; their server may also be out of reach.

    Nobody's credentials are what the library fails to renew when the service answers 401 to a request without any.
    """
    from google.auth.exceptions import DefaultCredentialsError, InvalidOperation, TransportError

    if isinstance(error, TransportError) or getattr(error, "retryable", False):
        return Failed("credentials", f"the server of the credentials: {type(error).__name__}", transient=True)
    if isinstance(error, DefaultCredentialsError | InvalidOperation):
        text, hint = (
            ("the node has no account", _ACCOUNT)
            if secret is None
            else ("no access token came with the request", _LOG_IN)
        )
        return Failed("http_401", text, status=401, lacking=hint)
    return Failed("http_401", "they have expired or are not valid", status=401)


def _network(error: Exception) -> Failed:
    """Name the fault of a connection; library texts hold addresses of memory and URLs, so only the kind is told."""
    import requests
    from urllib3.exceptions import IncompleteRead, NewConnectionError, ProtocolError
    from urllib3.exceptions import TimeoutError as Late

    chain = _chain(error)
    if any(isinstance(each, NewConnectionError | ConnectionRefusedError) for each in chain):
        return Failed("network", "no connection", transient=True)
    if any(isinstance(each, requests.Timeout | Late | TimeoutError) for each in chain):
        return Failed("stall", "no answer in time", transient=True)
    if any(isinstance(each, IncompleteRead) for each in chain):
        return Failed("cut", "the answer ended early", transient=True)
    if any(isinstance(each, ProtocolError | ConnectionError) for each in chain):
        return Failed("reset", "the connection was lost", transient=True)
    return Failed("network", f"the connection failed ({type(error).__name__})", transient=True)


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception and what it was made of: `requests` wraps `urllib3`, which wraps the system's."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            reason = getattr(each, "reason", None)
            waiting += [each.__cause__, each.__context__, reason, *each.args]
    return found
