"""Who asks, and what Cloud Storage lets them do: access tokens, grants on buckets and objects, revocation."""

from __future__ import annotations

import threading

from tests.gcs.store import Refusal

#: The user of a request without any token.
ANONYMOUS = ""
#: A grant for everyone, anonymous callers included.
EVERYONE = "*"


class Access:
    """`tokens` maps an access token to its user. What was never granted to anybody is open to all."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self._expired: set[str] = set()
        self._rules: dict[tuple[str, str | None, str], tuple[bool, bool]] = {}
        self._closed: set[tuple[str, str | None]] = set()
        self._lock = threading.Lock()

    def allow(self, bucket: str, user: str, name: str | None, *, read: bool, write: bool) -> None:
        """From now on only those who were allowed come to this bucket, or to this object."""
        with self._lock:
            self._rules[bucket, name, user] = (read, write)
            self._closed.add((bucket, name))

    def deny(self, bucket: str, user: str, name: str | None) -> None:
        """Take away what this user was allowed; a bucket once closed stays closed."""
        with self._lock:
            self._rules[bucket, name, user] = (False, False)

    def expire(self, token: str) -> None:
        self._expired.add(token)

    def user(self, authorization: str | None) -> str:
        """The user of a request. 401 for an unknown or expired token."""
        if authorization is None:
            return ANONYMOUS
        token = authorization.removeprefix("Bearer ")
        if token in self._expired or token not in self.tokens:
            raise Refusal(401, "Invalid Credentials", {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        return self.tokens[token]

    def check(self, bucket: str, name: str | None, user: str, *, write: bool) -> None:
        """403 for a user, 401 for an anonymous caller, when nothing allows what they ask."""
        if not self._may(bucket, name, user, write=write):
            right = "storage.objects." + (("create" if write else "get") if name else "list")
            raise Refusal(403 if user else 401, f"{user or 'Anonymous caller'} does not have {right} access.")

    def _may(self, bucket: str, name: str | None, user: str, *, write: bool) -> bool:
        with self._lock:
            for place in dict.fromkeys((name, None)):
                for who in (user, EVERYONE):
                    if (rule := self._rules.get((bucket, place, who))) is not None:
                        return rule[write]
            return not self._closed & {(bucket, name), (bucket, None)}
