"""What may stand in `[objects] redis`: nothing that others could listen to."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cached.errors import BadConfig
from cached.objects.redis import check
from cached.objects.redis_url import Target, targets
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("unix:///run/redis.sock", Target(path="/run/redis.sock")),
        ("unix://:pa%20ss@/run/redis.sock?db=3", Target(path="/run/redis.sock", password="pa ss", db=3)),
        ("redis://127.0.0.1:7000", Target(host="127.0.0.1", port=7000)),
        ("redis://localhost/2", Target(host="localhost", port=6379, db=2)),
        ("redis://:secret@[::1]:7000/", Target(host="::1", port=7000, password="secret")),
        (
            "redis://ada:s%40cret@127.8.9.1:1",
            Target(host="127.8.9.1", port=1, username="ada", password="s@cret"),
        ),
        (
            "rediss://:secret@redis.example.org:7000?ca=/etc/ca.pem",
            Target(host="redis.example.org", port=7000, password="secret", tls=True, ca="/etc/ca.pem"),
        ),
        (
            "rediss://10.0.0.9?password_file=/etc/cached/redis",
            Target(host="10.0.0.9", port=6379, tls=True, password_file="/etc/cached/redis"),
        ),
        ("rediss://127.0.0.1:1", Target(host="127.0.0.1", port=1, tls=True)),
    ],
)
def test_a_server_is_read(url, wanted):
    assert targets(url) == (wanted,)
    check(url)


def test_several_members_of_a_cluster_are_read():
    found = targets("redis://127.0.0.1:7000, redis://127.0.0.1:7001")
    assert [str(each) for each in found] == ["127.0.0.1:7000", "127.0.0.1:7001"]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://10.0.0.1:6379", "without TLS"),
        ("redis://:secret@redis.example.org", "without TLS"),
        ("redis://0.0.0.0:1", "without TLS"),
        ("redis://[2001:db8::1]:1", "without TLS"),
        ("redis://127.0.0.1.example.org", "without TLS"),
        ("redis://localhost.example.org", "without TLS"),
        ("redis://127.0.0.1,redis://10.0.0.1", "without TLS"),
        ("rediss://10.0.0.1:6379", "no password"),
        ("rediss://ada@10.0.0.1:6379", "no password"),
        ("", "begins with"),
        ("http://127.0.0.1", "begins with"),
        ("127.0.0.1:6379", "begins with"),
        ("redis://", "no host"),
        ("redis://127.0.0.1:0", "no port"),
        ("redis://127.0.0.1:99999", "not a URL"),
        ("redis://[::1", "not a URL"),
        ("redis://127.0.0.1/one", "a number"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix:///", "absolute path"),
        ("rediss://:s@h?ca=ca.pem", "absolute path"),
        ("rediss://:s@h?ssl_cert_reqs=none", "not known"),
        ("redis://127.0.0.1?ca=/ca.pem", "not known"),
        ("redis://127.0.0.1:1,rediss://127.0.0.1:2", "TLS or none"),
        ("redis://127.0.0.1:1/1,redis://127.0.0.1:2", "no databases"),
        ("unix:///a,unix:///b", "host and port"),
        ("redis://127.0.0.1:1,", "begins with"),
        ("rediss://:half/half@10.0.0.1", "ends where it should not"),
        ("rediss://:half?half@10.0.0.1", "ends where it should not"),
        ("rediss://:half#half@10.0.0.1", "ends where it should not"),
    ],
)
def test_what_is_no_server_or_an_unsafe_one_is_refused_with_a_hint(url, words):
    with pytest.raises(BadConfig, match=words) as caught:
        check(url)
    assert caught.value.hint


@given(
    st.from_regex(r"[a-z]{8}[a-z0-9#?/@:,&%\[\]]{0,20}", fullmatch=True),
    st.sampled_from(["redis", "rediss", "unix"]),
)
def test_a_refusal_never_shows_the_password(password, scheme):
    with pytest.raises(BadConfig) as caught:
        check(f"{scheme}://:Qx7{password}@10.0.0.1:6379/zero")
    said = f"{caught.value.message} {caught.value.hint} {caught.value.details}"
    assert "Qx7" not in said
    assert password not in said


def test_a_target_shows_no_password():
    target = targets("rediss://:secret@h.example.org:1")[0]
    assert "secret" not in f"{target} {target!r}"


def test_another_member_is_held_to_the_same_rule():
    plain = targets("redis://127.0.0.1:7000")[0]
    assert plain.sibling("127.0.0.1", 7001).port == 7001
    with pytest.raises(BadConfig, match="without TLS"):
        plain.sibling("10.0.0.1", 7001)
    safe = targets("rediss://:secret@10.0.0.1:7000?ca=/ca.pem")[0]
    assert safe.sibling("10.0.0.2", 7001).ca == "/ca.pem"


def test_the_daemon_does_not_load_the_redis_library_before_it_is_configured():
    code = "import sys, cached.objects.redis as r; r.check('unix:///x'); assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
