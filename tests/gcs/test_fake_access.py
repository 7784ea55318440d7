"""Tokens and grants of the fake, its counters, its speed limit, and the fake as a process of its own."""

from __future__ import annotations

import http.client
import os
import threading
import time

import pytest
from google.api_core.exceptions import Forbidden, Unauthorized
from google.cloud import storage
from google.oauth2.credentials import Credentials
from tests.gcs.fake import FakeGcs
from tests.gcs.fixtures import point_to
from tests.gcs.raw import ask, same
from tests.gcs.remote import fake_process
from tests.gcs.store import Refusal

MEDIA = "/download/storage/v1/b/b/o/o?alt=media"
ADA = {"Authorization": "Bearer tok-ada"}
BOB = {"Authorization": "Bearer tok-bob"}


@pytest.fixture
def users(gcs):
    gcs.put("b", "o", b"secret")
    gcs.tokens.update({"tok-ada": "ada", "tok-bob": "bob"})
    return gcs


def status(gcs, method="GET", path=MEDIA, body=None, **headers):
    return ask(gcs.url, method, path, body, **headers).status


def test_a_bucket_without_grants_is_open_to_all_even_without_a_token(users):
    assert [status(users), status(users, **ADA), status(users, **BOB)] == [200, 200, 200]


def test_a_token_that_nobody_issued_is_refused_everywhere(users):
    assert status(users, Authorization="Bearer made-up") == 401


def test_a_grant_closes_the_bucket_to_all_others(users):
    users.allow("b", "ada")
    assert [status(users), status(users, **ADA), status(users, **BOB)] == [401, 200, 403]
    for path in ("/storage/v1/b/b/o", "/storage/v1/b/b", "/b/o"):
        assert [status(users, path=path, **who) for who in (ADA, BOB)] == [200, 403]


def test_the_real_client_sends_the_users_token(users):
    users.allow("b", "ada", write=False)
    read = {}
    for token in ("tok-ada", "tok-bob", "made-up"):
        # With an emulator the client takes anonymous credentials unless it is given some.
        client = storage.Client(project="p", credentials=Credentials(token))
        try:
            read[token] = client.bucket("b").blob("o").download_as_bytes(retry=None)
        except (Forbidden, Unauthorized) as error:
            read[token] = type(error)
        except Exception as error:  # an unknown token makes the client try to refresh it, which it cannot
            read[token] = type(error).__name__
        client.close()
    assert read == {"tok-ada": b"secret", "tok-bob": Forbidden, "made-up": "RefreshError"}


def test_who_may_only_read_cannot_write_or_delete(users):
    users.allow("b", "ada", write=False)
    assert status(users, "PUT", "/b/o", b"mine", **ADA) == 403
    assert status(users, "DELETE", "/b/o", **ADA) == 403
    assert (
        status(users, "POST", "/upload/storage/v1/b/b/o?uploadType=resumable", b'{"name": "o"}', **ADA) == 403
    )
    assert users.get("b", "o") == b"secret"


def test_who_may_only_write_cannot_read(users):
    users.allow("b", "ada", read=False)
    assert status(users, "PUT", "/b/new", b"mine", **ADA) == 200
    assert status(users, path="/b/new", **ADA) == 403


def test_a_rule_for_one_object_goes_before_the_buckets(users):
    users.put("b", "p", b"p")
    users.allow("b", "ada")
    users.deny("b", "ada", "o")
    users.allow("b", "bob", "o")
    assert [status(users, path=f"/b/{name}", **ADA) for name in "op"] == [403, 200]
    assert [status(users, path=f"/b/{name}", **BOB) for name in "op"] == [200, 403]


def test_an_object_granted_to_everyone_is_public_in_a_closed_bucket(users):
    users.allow("b", "ada")
    users.allow("b", "*", "o", write=False)
    assert [status(users), status(users, **BOB)] == [200, 200]
    assert status(users, path="/storage/v1/b/b/o") == 401


def test_a_denied_user_stays_out_although_the_bucket_has_no_grant_left(users):
    users.allow("b", "ada")
    users.deny("b", "ada")
    assert [status(users), status(users, **ADA), status(users, **BOB)] == [401, 403, 403]


def test_an_expired_token_is_answered_with_401_and_others_are_not(users):
    users.expire("tok-ada")
    assert [status(users, **ADA), status(users, **BOB)] == [401, 200]


def test_requests_are_counted_by_kind_and_bytes_by_direction(users, client):
    bucket = client.bucket("b")
    bucket.blob("o").reload()
    bucket.blob("o").download_as_bytes()
    bucket.blob("n").upload_from_string(b"1234")
    list(client.list_blobs("b"))
    bucket.reload()
    bucket.blob("n").delete()
    assert ask(users.url, "GET", "/b/absent").status == 404
    assert users.counts == {"stat": 1, "media": 2, "upload": 1, "list": 1, "bucket": 1, "delete": 1}
    assert (users.bytes_out, users.bytes_in, users.peak) == (6, 4, 1)
    users.reset_counters()
    assert (users.counts["stat"], users.bytes_out, users.peak) == (0, 0, 0)


def test_the_client_makes_no_hidden_request(users, client):
    client.bucket("b").blob("o").download_as_bytes()
    assert users.counts == {"media": 1}


def test_the_peak_is_the_number_of_requests_under_way_at_once(users):
    users.faults.add("stall", times=None)
    threads = [threading.Thread(target=status, args=(users,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 60
    while users.counters.active < 5 and time.monotonic() < give_up:
        time.sleep(0.01)
    users.faults.clear()
    for thread in threads:
        thread.join(60)
    assert status(users) == 200
    assert users.peak == 5


def test_the_speed_limit_is_shared_by_all_connections(users):
    users.put("b", "o", bytes(100_000))
    users.rate = 1_000_000
    begin = time.monotonic()
    threads = [threading.Thread(target=status, args=(users,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert time.monotonic() - begin >= 0.34  # 400 kB at 1 MB/s, less what a sender may make up for
    users.rate = None
    assert status(users) == 200


def test_many_requests_share_one_connection(users):
    connection = http.client.HTTPConnection(users.url.removeprefix("http://"), timeout=60)
    connection.connect()
    mine = connection.sock
    for _ in range(3):
        connection.request("GET", MEDIA)
        assert connection.getresponse().read() == b"secret"
        assert connection.sock is mine
    connection.close()


def test_a_fake_that_was_left_answers_nobody():
    with FakeGcs() as fake:
        fake.bucket("b")
        connection = http.client.HTTPConnection(fake.url.removeprefix("http://"), timeout=60)
        connection.request("GET", "/storage/v1/b/b")
        connection.getresponse().read()
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(fake.url, "GET", "/storage/v1/b/b")
    with pytest.raises((OSError, http.client.HTTPException)):
        say_again(connection)
    connection.close()


def say_again(connection):
    connection.request("GET", "/storage/v1/b/b")
    connection.getresponse()


def test_a_fake_in_another_process_does_all_that_the_one_in_this_process_does(monkeypatch):
    big = os.urandom(20 << 20)
    with fake_process() as fake:
        point_to(fake.url, monkeypatch)
        fake.bucket("b")
        generation = fake.put("b", "dir/ö?", big, content_type="text/x", metadata={"colour": "red"})
        client = storage.Client()
        blob = client.bucket("b").get_blob("dir/ö?")
        assert (blob.generation, blob.content_type, blob.metadata) == (
            generation,
            "text/x",
            {"colour": "red"},
        )
        assert same(blob.download_as_bytes(), big)
        assert same(fake.get("b", "dir/ö?"), big)
        client.close()
        assert (fake.counts, fake.bytes_out, fake.bytes_in, fake.peak) == (
            {"stat": 1, "media": 1},
            len(big),
            0,
            1,
        )
        [(began, ended)] = fake.times
        assert began < ended < time.monotonic()
        fake.reset_counters()
        assert fake.counts["media"] == 0
        assert (fake.names("b"), fake.generation("b", "dir/ö?")) == (["dir/ö?"], generation)
        fake.delete("b", "dir/ö?")
        with pytest.raises(Refusal):
            fake.get("b", "dir/ö?")
        assert fake.errors == []


def test_tokens_grants_and_faults_are_scripted_in_another_process_too():
    with fake_process() as fake:
        fake.bucket("b")
        fake.put("b", "o", b"secret")
        fake.tokens["tok-ada"] = "ada"
        fake.tokens["tok-bob"] = "bob"
        assert dict(fake.tokens) == {"tok-ada": "ada", "tok-bob": "bob"}
        fake.allow("b", "ada")
        assert [status(fake, **ADA), status(fake, **BOB)] == [200, 403]
        fake.deny("b", "ada")
        assert status(fake, **ADA) == 403
        fake.allow("b", "ada")
        fake.expire("tok-bob")
        assert status(fake, **BOB) == 401
        del fake.tokens["tok-bob"]
        assert len(fake.tokens) == 1
        fault = fake.faults.add("replace_between", {"kind": "media", "user": "ada"}, data=b"\xff")
        assert [ask(fake.url, "GET", MEDIA, None, **ADA).body for _ in range(2)] == [b"secret", b"\xff"]
        assert fault.done == 1
        fake.faults.add("503", times=None)
        assert status(fake, **ADA) == 503
        fake.faults.clear()
        fake.rate = 1e6
        assert (status(fake, **ADA), fake.rate) == (200, 1e6)
        with pytest.raises(TypeError, match="mapping"):
            fake.faults.add("503", lambda request: True)
