"""Where an access token comes from, in which order, and what it never does."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from cached.client import token
from cached.client.token import Tokens, from_environment, has_default_credentials
from cached.errors import Forbidden, OriginUnavailable, UsageError
from cached.wire import MAX_TOKEN, checked_token
from hypothesis import given
from hypothesis import strategies as st

NAMES = (
    "CACHED_GCS_TOKEN_FILE",
    "CACHED_GCS_TOKEN",
    "CLOUDSDK_AUTH_ACCESS_TOKEN",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "STORAGE_EMULATOR_HOST",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GCE_METADATA_HOST",
    "CLOUDSDK_CONFIG",
)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(has_default_credentials, "__defaults__", (tmp_path / "no-product",))


def test_the_program_comes_before_the_environment_and_files_before_variables(monkeypatch, tmp_path):
    (tmp_path / "t").write_text("of-a-file\n")
    env = dict(zip(NAMES[1:5], ("cached", "cloudsdk", "oauth", "http://127.0.0.1:1"), strict=True))
    env["CACHED_GCS_TOKEN_FILE"] = str(tmp_path / "t")
    for name, expected in (
        ("CACHED_GCS_TOKEN_FILE", "of-a-file"), ("CACHED_GCS_TOKEN", "cached"),
        ("CLOUDSDK_AUTH_ACCESS_TOKEN", "cloudsdk"), ("GOOGLE_OAUTH_ACCESS_TOKEN", "oauth"),
        ("STORAGE_EMULATOR_HOST", ""),
    ):  # fmt: skip
        assert from_environment(env) == expected
        del env[name]
    assert from_environment(env) is None
    monkeypatch.setenv("CACHED_GCS_TOKEN", "cached")
    assert Tokens().get() == "cached"
    assert Tokens("mine").get() == "mine"
    assert Tokens(lambda: "called").get() == "called"
    assert Tokens("").get() == ""


def test_without_anything_there_is_no_token():
    assert Tokens().get() == ""


def test_what_changes_in_the_environment_changes_the_token_of_a_client_that_is_there(monkeypatch):
    tokens = Tokens()
    for text in ("one", "two"):
        monkeypatch.setenv("CACHED_GCS_TOKEN", text)
        assert [tokens.get(), tokens.get()] == [text, text]
    monkeypatch.delenv("CACHED_GCS_TOKEN")
    assert tokens.get() == ""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    assert tokens.get() == ""
    monkeypatch.setenv("CACHED_GCS_TOKEN", "no token")
    with pytest.raises(UsageError):
        tokens.get()


def test_a_token_file_is_read_each_time_and_its_absence_is_told(monkeypatch, tmp_path):
    path = tmp_path / "token"
    monkeypatch.setenv("CACHED_GCS_TOKEN_FILE", str(path))
    tokens = Tokens()
    with pytest.raises(UsageError, match="CACHED_GCS_TOKEN_FILE"):
        tokens.get()
    for text in ("one", "two\n"):
        path.write_text(text)
        assert tokens.get() == text.strip()
    path.write_text("tok-secret\nX-Evil: 1\n")
    with pytest.raises(UsageError) as told:
        tokens.get()
    assert "secret" not in f"{told.value} {told.value.hint} {told.value.details} {tokens!r}"


@given(st.text())
def test_what_passes_can_stand_in_a_header(text):
    try:
        checked = checked_token(text)
    except UsageError as error:
        told = error.message + error.hint
    else:
        told = ""
        assert checked == text
        assert text.isascii()
        assert not any(char.isspace() or not char.isprintable() for char in text)
        assert len(text) <= MAX_TOKEN
    assert len(text) < 8 or text not in told


def test_default_credentials_are_looked_for_only_where_there_may_be_some(tmp_path):
    home = tmp_path / ".config" / "gcloud"
    env = {"HOME": str(tmp_path)}
    assert not has_default_credentials(env)
    assert has_default_credentials({"GOOGLE_APPLICATION_CREDENTIALS": "/x"})
    assert has_default_credentials({"GCE_METADATA_HOST": "127.0.0.1"})
    home.mkdir(parents=True)
    (home / "application_default_credentials.json").write_text("{}")
    assert has_default_credentials(env)
    (tmp_path / "product").write_text("Google Compute Engine\n")
    assert has_default_credentials({}, tmp_path / "product")


class Credentials:
    def __init__(self) -> None:
        self.valid = False
        self.token = ""
        self.renewed = 0
        self.fails: Exception | None = None

    def refresh(self, _request: object) -> None:
        if self.fails is not None:
            raise self.fails
        self.renewed += 1
        self.token, self.valid = f"adc-{self.renewed}", True


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    class GoogleAuthError(Exception):
        pass

    class RefreshError(GoogleAuthError):
        pass

    class DefaultCredentialsError(GoogleAuthError):
        pass

    found = types.SimpleNamespace(credentials=Credentials(), asked=0, RefreshError=RefreshError,
                                  GoogleAuthError=GoogleAuthError, absent=False,
                                  DefaultCredentialsError=DefaultCredentialsError)  # fmt: skip

    def default(scopes: list[str]) -> tuple[Credentials, str]:
        found.asked += 1
        if found.absent:
            raise DefaultCredentialsError
        return found.credentials, "project"

    modules = {
        "google.auth": types.SimpleNamespace(default=default),
        "google.auth.exceptions": found,
        "google.auth.transport.requests": types.SimpleNamespace(Request=object),
    }
    monkeypatch.setattr(token, "importlib", types.SimpleNamespace(import_module=modules.__getitem__))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/x")
    return found


def test_default_credentials_are_kept_and_renewed_when_they_expire(google):
    tokens = Tokens()
    assert [tokens.get(), tokens.get()] == ["adc-1", "adc-1"]
    google.credentials.valid = False
    assert tokens.get() == "adc-2"
    assert google.asked == 1


def test_default_credentials_that_cannot_be_renewed_are_told_with_the_remedy(google):
    google.credentials.fails = google.RefreshError("secret detail")
    with pytest.raises(Forbidden) as told:
        Tokens().get()
    assert "gcloud auth application-default login" in told.value.hint
    assert "secret" not in str(told.value)
    google.credentials.fails = google.GoogleAuthError()
    with pytest.raises(OriginUnavailable):
        Tokens().get()
    google.absent = True
    assert Tokens().get() == ""


def test_a_machine_of_google_without_credentials_is_searched_once_and_not_for_each_open(google):
    google.absent = True
    tokens = Tokens()
    assert [tokens.get(), tokens.get(), tokens.get()] == ["", "", ""]
    assert google.asked == 1


def gcloud(tmp_path: Path, script: str) -> None:
    program = tmp_path / "bin" / "gcloud"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_gcloud_is_asked_once_in_a_while(tmp_path, monkeypatch):
    gcloud(tmp_path, f'echo "$@" >> {tmp_path}/asked; echo tok-gcloud')
    tokens = Tokens()
    assert [tokens.get(), tokens.get()] == ["tok-gcloud", "tok-gcloud"]
    assert (tmp_path / "asked").read_text() == "auth print-access-token --quiet\n"
    monkeypatch.setattr(token, "_GCLOUD_SECONDS", -1.0)
    tokens = Tokens()
    assert [tokens.get(), tokens.get()] == ["tok-gcloud", "tok-gcloud"]
    assert len((tmp_path / "asked").read_text().splitlines()) == 3


def test_a_gcloud_that_refuses_means_no_token(tmp_path):
    gcloud(tmp_path, "echo tok-wrong; exit 1")
    assert Tokens().get() == ""


def test_a_token_from_the_environment_loads_nothing_that_would_find_others():
    code = (
        "import sys\nfrom cached.client import Client\nfrom cached.client.token import Tokens\n"
        "assert Tokens().get() == 'tok'\n"
        "print(sorted({'subprocess', 'google', 'requests', 'tempfile', 'asyncio', 'shutil'} & set(sys.modules)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path = {sys.path!r}\n{code}"],
        env={**os.environ, "CACHED_GCS_TOKEN": "tok"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"
