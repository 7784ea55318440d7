"""Clients of google-cloud-storage, one an account: the node's own, nobody's, and users' by their access tokens.

The library is loaded at the first request, never before: a daemon starts without it. Tokens live in the memory of
the credentials alone, and no longer than they are used; here they are known by their SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cached.errors import BadConfig
from cached.origin.values import ANONYMOUS, NODE_ACCOUNT

if TYPE_CHECKING:
    from google.cloud.storage import Client

#: Accounts whose clients are kept; one more costs about a millisecond.
_KEPT: Final = 256
#: Seconds without a request after which a user's client, and with it the token, is forgotten.
IDLE: Final = 60.0
#: Seconds for which it counts that the machine has no account: to look for one may take half a minute.
ABSENT: Final = 300.0
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
#: The first request to each bucket would also ask for the bucket, for labels of traces that nobody reads.
_NO_BUCKET_REQUESTS: Final = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"


class Accounts:
    """Makes clients and keeps those used last; they share one pool of connections. Called from threads."""

    def __init__(
        self,
        *,
        endpoint: str,
        credentials: Path | None,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._threads = threads
        self._clock = clock
        #: Clients, those used last at the end, and when that was.
        self._clients: OrderedDict[str, tuple[Client, float]] = OrderedDict()
        self._timer: threading.Timer | None = None
        self._adapter: Any = None
        self._lock = threading.Lock()
        #: The machine's own account, if it was found; else why not, and until when that counts.
        self._machine: Any = None
        self._no_machine: tuple[Exception, float] | None = None
        self._searching = threading.Lock()

    def load(self) -> None:
        """Load the library; takes about a second the first time."""
        os.environ.setdefault(_NO_BUCKET_REQUESTS, "1")
        import google.cloud.storage  # noqa: F401

    def client(self, token: str | None) -> Client:
        """Return the client that acts for a token. Raises exceptions of google.auth, and `BadConfig`."""
        key = "" if token is NODE_ACCOUNT else hashlib.sha256(token.encode()).hexdigest()
        if token is NODE_ACCOUNT and self._credentials is None and not self._emulated():
            self._of_machine()  # before the lock: users need not wait for it
        with self._lock:
            self._drop_idle()
            client = self._clients[key][0] if key in self._clients else self._made(token)
            self._clients[key] = client, self._clock()
            self._clients.move_to_end(key)
            if len(self._clients) > _KEPT:
                self._clients.popitem(last=False)  # its session shares the pool: nothing to close
            self._look_later()
            return client

    def close(self) -> None:
        """Forget all clients and close the connections."""
        with self._lock:
            self._clients.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._adapter is not None:
                self._adapter.close()

    def sweep(self) -> None:
        """Forget the clients of users who have asked nothing for so long; it happens by itself too."""
        with self._lock:
            self._timer = None
            self._drop_idle()
            self._look_later()

    def _drop_idle(self) -> None:
        now = self._clock()
        for key, (_, used) in list(self._clients.items()):
            if now - used < IDLE:
                break  # all others were used later
            if key:  # the node's own holds nothing of a user
                del self._clients[key]

    def _look_later(self) -> None:
        if self._timer is None and any(self._clients):
            self._timer = threading.Timer(IDLE, self.sweep)
            self._timer.daemon = True
            self._timer.start()

    def _made(self, token: str | None) -> Client:
        self.load()
        from google.cloud.storage import Client
        from requests.adapters import HTTPAdapter

        options = {"api_endpoint": self._endpoint} if self._endpoint else None
        client = Client(project=None, credentials=self._identity(token), client_options=options)
        if self._adapter is None:
            self._adapter = HTTPAdapter(pool_connections=4, pool_maxsize=self._threads)
        session = client._http
        self._settle(session, client._connection.API_BASE_URL)
        if not getattr(session, "is_mtls", False):  # such a session has an adapter with its own certificate
            session.mount("https://", self._adapter)
            session.mount("http://", self._adapter)
        return client

    @staticmethod
    def _settle(session: Any, url: str) -> None:
        """Read proxies and authorities from the environment once, and never `.netrc`.

        By default a session does that for each request, and a password in `.netrc` would take the place of the token.
        """
        from requests.utils import get_environ_proxies

        session.proxies = get_environ_proxies(url)
        session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        session.trust_env = False

    def _identity(self, token: str | None) -> Any:
        from google.auth.credentials import AnonymousCredentials
        from google.oauth2.credentials import Credentials

        if token == ANONYMOUS:
            return AnonymousCredentials()  # type: ignore[no-untyped-call]
        if token is not NODE_ACCOUNT:
            return Credentials(token)  # type: ignore[no-untyped-call]
        if self._credentials is not None:
            return self._from_file(self._credentials)
        if self._emulated():
            return AnonymousCredentials()  # type: ignore[no-untyped-call]
        return self._of_machine()

    def _of_machine(self) -> Any:
        """Return the machine's own account, which Google's library may search the network for; that there is none is
        remembered for some minutes.
        """
        with self._searching:
            if self._machine is not None:
                return self._machine
            if self._no_machine is not None and self._clock() < self._no_machine[1]:
                raise self._no_machine[0].with_traceback(None)
            import google.auth
            from google.auth.exceptions import DefaultCredentialsError

            try:
                self._machine = google.auth.default(scopes=[_SCOPE])[0]
            except DefaultCredentialsError as error:
                self._no_machine = (error, self._clock() + ABSENT)
                raise
            return self._machine

    def _emulated(self) -> bool:
        """Say whether the service is an emulator, which knows no accounts: Google's own is never without TLS."""
        return self._endpoint.startswith("http://") or bool(
            not self._endpoint and os.environ.get("STORAGE_EMULATOR_HOST")
        )

    @staticmethod
    def _from_file(path: Path) -> Any:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError

        try:
            return google.auth.load_credentials_from_file(str(path), scopes=[_SCOPE])[0]  # type: ignore[no-untyped-call]
        except (OSError, ValueError, DefaultCredentialsError) as error:
            raise BadConfig(
                f"cannot use the credentials in {path}: {type(error).__name__}",
                hint="[origin] credentials names a key file or a workload identity configuration",
            ) from None
