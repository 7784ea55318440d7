"""Where a program's access token for Cloud Storage comes from.

In this order: what the program gives; `CACHED_GCS_TOKEN_FILE` (read each time: who renews the token writes it there),
`CACHED_GCS_TOKEN`, `CLOUDSDK_AUTH_ACCESS_TOKEN`, `GOOGLE_OAUTH_ACCESS_TOKEN`; with `STORAGE_EMULATOR_HOST` none;
Google's application default credentials, where there are any and its library is installed; `gcloud auth
print-access-token`; none, which is enough for public objects. Nothing of this is imported or run before the first
object is asked for.

Each open of an object asks for the token, so what the environment says is looked at again only when it has changed.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cached.client.lookup import Lookup
from cached.errors import Forbidden, OriginUnavailable, UsageError
from cached.wire import checked_token

#: A token, or what returns one (called for each request: it keeps what is still valid); None: the usual places.
Given = str | Callable[[], str] | None

_FILE: Final = "CACHED_GCS_TOKEN_FILE"
_VARIABLES: Final = ("CACHED_GCS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN")
_EMULATOR: Final = "STORAGE_EMULATOR_HOST"
#: What `from_environment` looks at, as the system's own environment has it; the file comes first.
_KEYS: Final = tuple(os.fsencode(name) for name in (_FILE, *_VARIABLES, _EMULATOR))
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_PRODUCT: Final = Path("/sys/class/dmi/id/product_name")
#: For how long a token of gcloud is used before it is asked again, in seconds; its tokens have longer to live.
_GCLOUD_SECONDS: Final = 240.0
#: Longest time that gcloud may take, in seconds.
_GCLOUD_PATIENCE: Final = 60.0
#: Longest token file, in bytes.
_LONGEST_FILE: Final = 1 << 16


class Tokens:
    """The token of one client, asked for anew at each request."""

    def __init__(self, given: Given = None) -> None:
        #: As it was given, for copies of the client.
        self.given = given
        #: What was said, and which token that meant.
        self._environment: tuple[tuple[bytes | None, ...], str | None] | None = None
        self._credentials: Lookup[Any] = Lookup(
            "application default credentials (Google's metadata server)", _default_credentials
        )
        self._from_gcloud: tuple[str, float] = ("", 0.0)

    def __repr__(self) -> str:
        return "Tokens()"

    def get(self) -> str:
        """Return the token that is valid now, empty for none. Raises `UsageError`, `Forbidden`, `OriginUnavailable`."""
        if self.given is not None:
            token = self.given() if callable(self.given) else self.given
            if not isinstance(token, str):
                raise UsageError(
                    "the access token is no text", hint="token= takes text, or what returns text"
                )
            return checked_token(token)
        token_or_none = self._of_environment()
        if token_or_none is not None:
            return token_or_none
        if has_default_credentials(os.environ):
            token_or_none = self._of_credentials()
            if token_or_none is not None:
                return token_or_none
        return self._gcloud()

    def _of_environment(self) -> str | None:
        """Return what `from_environment` does, in less time: each look at `os.environ` costs a microsecond."""
        raw = getattr(os.environ, "_data", None)
        if raw is None:
            return from_environment(os.environ)
        said = tuple(map(raw.get, _KEYS))
        known = self._environment
        if known is not None and known[0] == said:
            return known[1]
        token = from_environment(os.environ)
        if not said[0]:  # a file may say something else the next time
            self._environment = (said, token)
        return token

    def _of_credentials(self) -> str | None:
        """Ask Google's library, if it is installed; None: it finds nothing."""
        try:
            failures = importlib.import_module("google.auth.exceptions")
            requests = importlib.import_module("google.auth.transport.requests")
        except ImportError:
            return None
        try:
            credentials = self._credentials.get()
            if credentials is None:
                return None
            if not credentials.valid:
                credentials.refresh(requests.Request())
        except failures.RefreshError:
            raise Forbidden(
                "your application default credentials could not be renewed",
                hint="renew them: gcloud auth application-default login",
            ) from None
        except failures.GoogleAuthError:
            raise OriginUnavailable(
                "your application default credentials could not be renewed: Google did not answer",
                hint="try again, or set CACHED_GCS_TOKEN_FILE",
            ) from None
        return checked_token(str(credentials.token or ""))

    def _gcloud(self) -> str:
        """Ask the Google Cloud CLI, if there is one; its answer is used for a while, no answer for ever."""
        token, until = self._from_gcloud
        if time.monotonic() < until:
            return token
        import shutil

        program = shutil.which("gcloud")
        token = "" if program is None else _asked(program)
        self._from_gcloud = (token, time.monotonic() + _GCLOUD_SECONDS)
        return token


def from_environment(env: Mapping[str, str]) -> str | None:
    """Return the token that the environment names; empty: none is to be sent; None: it does not say."""
    if path := env.get(_FILE):
        return _from_file(path)
    for name in _VARIABLES:
        if token := env.get(name, "").strip():
            return checked_token(token)
    return "" if env.get(_EMULATOR) else None


def has_default_credentials(env: Mapping[str, str], product: Path = _PRODUCT) -> bool:
    """Say whether there may be application default credentials; without them the library would search the network."""
    if env.get("GOOGLE_APPLICATION_CREDENTIALS") or env.get("GCE_METADATA_HOST"):
        return True
    home = env.get("CLOUDSDK_CONFIG") or os.path.join(env.get("HOME") or "/", ".config", "gcloud")
    if os.path.exists(os.path.join(home, "application_default_credentials.json")):
        return True
    try:
        return product.read_text().startswith("Google")
    except OSError:
        return False


def _default_credentials() -> Any:
    """Return what Google's library finds, None for nothing. It may ask the network for half a minute."""
    auth = importlib.import_module("google.auth")
    failures = importlib.import_module("google.auth.exceptions")
    try:
        return auth.default(scopes=[_SCOPE])[0]
    except failures.DefaultCredentialsError:
        return None


def _from_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_LONGEST_FILE)
    except OSError as error:
        raise UsageError(
            f"{_FILE} names {path}, which cannot be read: {error.strerror}",
            hint="have it written there, or unset it",
        ) from None
    return checked_token(data.decode("latin-1").strip())


def _asked(program: str) -> str:
    import subprocess

    try:
        done = subprocess.run(
            [program, "auth", "print-access-token", "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_GCLOUD_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return checked_token(done.stdout.decode("latin-1").strip()) if done.returncode == 0 else ""
