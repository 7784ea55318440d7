"""What Cloud Storage does with each kind of request, without faults and without sockets."""

from __future__ import annotations

import json
from typing import Any

from tests.gcs import answers
from tests.gcs.answers import Answer
from tests.gcs.request import Request
from tests.gcs.store import Refusal, Store, Stored
from tests.gcs.tokens import Access
from tests.gcs.upload import Body, Uploads

_WRITES = {"upload", "resumable", "delete", "patch"}


class Service:
    """Looks at the caller's rights, then does what is asked; `leave_out` names what faults hide from the answer."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        self._uploads = Uploads(store)

    def answer(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        if request.kind == "unknown":
            raise Refusal(501, f"The fake does not know {request.method} {request.path}")
        self._store.bucket(request.bucket)
        self._authorise(request)
        answer: Answer = getattr(self, f"_{request.kind}")(request, body, leave_out)
        return answer

    def identify(self, request: Request, body: Body) -> None:
        """Find out who asks, and which object an upload is about."""
        request.user = self._access.user(request.headers.get("Authorization"))
        if request.kind in ("upload", "resumable"):
            request.name = self._uploads.named(request, body)

    def _authorise(self, request: Request) -> None:
        if request.kind == "resumable" and "upload_id" in request.query:
            return  # the address of a session is a right in itself
        name = request.name if request.kind not in ("list", "bucket") else None
        self._access.check(request.bucket, name or None, request.user, write=request.kind in _WRITES)

    def _get(self, request: Request) -> Stored:
        return self._store.get(request.bucket, request.name, request.generation, request.conditions)

    def _described(self, request: Request, stored: Stored, leave_out: set[str]) -> Answer:
        headers = answers.headers_of(stored, leave_out)
        if request.xml:
            return Answer(200, headers)
        return answers.of_json(answers.resource(stored, request.base, leave_out), {"ETag": headers["ETag"]})

    def _stat(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        stored = self._get(request)
        if request.xml:  # HEAD: the headers of the media, and no body
            answer = answers.of_media(stored, request, leave_out)
            return Answer(answer.status, answer.headers | {"Content-Length": str(len(answer.body))})
        return self._described(request, stored, leave_out)

    def _media(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        return answers.of_media(self._get(request), request, leave_out)

    def _list(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        versions = request.query.get("versions", "").lower() == "true"
        return answers.listing(self._store.names(request.bucket, versions=versions), request)

    def _bucket(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        versioning = self._store.bucket(request.bucket).versioning
        described: dict[str, Any] = {"kind": "storage#bucket", "id": request.bucket, "name": request.bucket}
        fixed = {"location": "US", "locationType": "multi-region", "versioning": {"enabled": versioning}}
        return answers.of_json(described | fixed)

    def _upload(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        return self._described(request, self._uploads.simple(request, body), leave_out)

    def _resumable(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        if "upload_id" not in request.query:
            return Answer(200, {"Location": self._uploads.start(request, body)})
        if request.method == "DELETE":
            self._uploads.cancel(request)
        return self._described(request, self._uploads.resume(request, body), leave_out)

    def _delete(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        self._store.delete(request.bucket, request.name, request.generation, request.conditions)
        return Answer(204)

    def _patch(self, request: Request, body: Body, leave_out: set[str]) -> Answer:
        wanted = json.loads(body.read() or b"{}")
        fields = {
            "contentType": "content_type",
            "contentEncoding": "content_encoding",
            "metadata": "metadata",
        }
        changes = {ours: wanted[theirs] for theirs, ours in fields.items() if theirs in wanted}
        stored = self._store.patch(request.bucket, request.name, request.conditions, **changes)
        return self._described(request, stored, leave_out)
