"""As whom Cloud Storage is asked: tokens stay secret and in force, clients are kept, the library is loaded late."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from cached.addresses import Address
from cached.errors import BadConfig, CachedError, Forbidden
from cached.origin.accounts import Accounts
from cached.origin.gcs import Gcs
from tests.origin.worlds import fetched, play

THERE = Address("b", "o")
DATA = os.urandom(100_000)


def patient(**how) -> Gcs:
    return Gcs(**{"threads": 4, "patience": 60, "first_wait": 0.01, **how})


def test_a_token_is_never_shown(gcs, caplog):
    secret = "ya29.a-very-secret-token"
    caplog.set_level(logging.DEBUG)
    gcs.put("b", "o", DATA)
    gcs.tokens[secret] = "ada"
    origin = patient(patience=0.3)
    shown: list[str] = []

    async def tell(asked) -> None:
        try:
            await asked
        except CachedError as error:
            shown.extend([repr(error), str(error.to_wire()), "".join(traceback.format_exception(error))])

    async def scene():
        pinned = await origin.stat(THERE, token=secret)
        await fetched(origin, pinned, token=secret)
        for fault in ("503", "403", "reset", "401", "400"):
            gcs.faults.add(fault, times=None)
            await tell(origin.stat(THERE, token=secret))
            await tell(origin.read(pinned, 0, 10, token=secret))
            gcs.faults.clear()
        gcs.expire(secret)
        await tell(origin.stat(THERE, token=secret))

    play(origin, scene)
    assert len(shown) == 3 * 11
    lanes = origin._lanes
    shown += [
        caplog.text,
        repr(origin),
        repr(vars(lanes)),
        repr(vars(lanes._accounts)),
        str(origin.stats.snapshot()),
    ]
    assert not [text for text in shown if secret in text]


def test_the_daemon_starts_without_the_library():
    seen = "[m for m in sys.modules if m.split('.')[0] in ('google', 'requests', 'urllib3', 'google_crc32c')]"
    program = f"import sys, cached.origin.gcs as g; g.Gcs(); print({seen})"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip() == "[]"


def test_a_password_file_does_not_take_the_place_of_a_token(gcs, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    gcs.tokens["tok-ada"] = "ada"
    gcs.put("b", "o", DATA)
    gcs.allow("b", "ada")
    origin = patient()

    async def scene():
        assert await fetched(origin, await origin.stat(THERE, token="tok-ada"), token="tok-ada") == DATA

    play(origin, scene)


def test_clients_are_kept_by_account_and_the_oldest_goes(gcs):
    accounts = Accounts(endpoint=gcs.url, credentials=None, threads=2)
    first = accounts.client("tok-0")
    assert accounts.client("tok-0") is first
    assert accounts.client(None) is not accounts.client("")
    assert accounts.client(None) is accounts.client(None)
    for number in range(300):
        accounts.client(f"tok-{number + 1}")
    assert accounts.client("tok-0") is not first
    assert len(accounts._clients) == 256
    assert first._http.get_adapter("http://x") is accounts.client("tok-0")._http.get_adapter("https://y")
    accounts.close()


def test_the_client_of_a_user_who_asks_nothing_any_more_is_forgotten_with_the_token(gcs):
    now = [1000.0]
    accounts = Accounts(endpoint=gcs.url, credentials=None, threads=2, clock=lambda: now[0])
    own, idle, busy = accounts.client(None), accounts.client("tok-idle"), accounts.client("tok-busy")
    now[0] += 59
    assert accounts.client("tok-busy") is busy
    now[0] += 1
    assert accounts.client("tok-busy") is busy
    assert len(accounts._clients) == 2
    assert accounts.client("tok-idle") is not idle
    now[0] += 60
    assert accounts._timer is not None
    accounts._timer.cancel()
    accounts._timer.function()
    assert list(accounts._clients) == [""]
    assert accounts._timer is None
    assert accounts.client(None) is own
    accounts.client("tok-idle")
    timer = accounts._timer
    accounts.close()
    assert timer.finished.is_set()


def test_a_machine_without_an_account_is_searched_once_in_minutes_and_users_do_not_wait_for_it(
    gcs, monkeypatch
):
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    now, searched, go, at_it = [0.0], [], threading.Event(), threading.Event()

    def default(**_):
        searched.append(now[0])
        at_it.set()
        assert go.wait(30)
        raise DefaultCredentialsError

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", default)
    accounts = Accounts(endpoint="https://storage.invalid", credentials=None, threads=2, clock=lambda: now[0])
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(accounts.client, None)
        assert at_it.wait(30)
        assert accounts.client("tok-ada") is not None
        assert not search.done()
        go.set()
        assert isinstance(search.exception(30), DefaultCredentialsError)
    for when in (1.0, 299.0, 301.0):
        now[0] = when
        with pytest.raises(DefaultCredentialsError):
            accounts.client(None)
    assert searched == [0.0, 301.0]
    accounts.close()


def test_a_file_that_holds_no_credentials_is_named(gcs, tmp_path):
    for content in (None, "nonsense", json.dumps({"type": "strange"})):
        path = tmp_path / "key.json"
        if content is not None:
            path.write_text(content)
        origin = patient(credentials=path)

        async def scene(origin=origin):
            await origin.stat(THERE, token=None)

        with pytest.raises(BadConfig, match=r"key\.json"):
            play(origin, scene)


def test_without_any_credentials_the_node_itself_is_refused_with_a_hint(gcs, tmp_path, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    origin = patient(endpoint="https://127.0.0.1:1")

    async def scene():
        with pytest.raises(Forbidden, match=r"gs://b/o: .*the node has no account") as refused:
            await origin.stat(THERE, token=None)
        assert "[origin] credentials" in refused.value.hint

    play(origin, scene)


def test_an_emulator_that_refuses_the_node_is_told_from_credentials_that_have_expired(gcs):
    gcs.put("b", "o", DATA)
    gcs.allow("b", "ada")
    origin = patient()

    async def scene():
        with pytest.raises(Forbidden, match=r"gs://b/o: .*the node has no account") as refused:
            await origin.stat(THERE, token=None)
        assert "expired" not in str(refused.value.to_wire())
        with pytest.raises(Forbidden, match="no access token came") as refused:
            [row async for row in origin.list("b", "", token="")]
        assert "CACHED_GCS_TOKEN" in refused.value.hint

    play(origin, scene)
