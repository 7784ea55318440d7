"""`cached limits`: rates as people write them, and how long they hold."""

from __future__ import annotations

ANSWER = {"upload_bytes_per_second": 10 << 20, "download_bytes_per_second": None, "configured": False}


def test_limits_are_asked_for_changed_and_shown_with_how_long_they_hold(run, client):
    client.answers["limits"] = ANSWER
    ran = run("limits")
    assert client.last == ("limits", (), {})
    assert [line.split() for line in ran.out.splitlines()] == [
        ["upload", "10.0", "MiB/s"],
        ["download", "no", "limit"],
    ]
    assert "until the daemon starts again" in ran.err
    run("limits", "--upload", "10MB/s", "--download", "none")
    assert client.last == ("limits", (), {"upload": 10_000_000, "download": None})
    run("limits", "--upload", "20Mb/s")
    assert client.last == ("limits", (), {"upload": 2_500_000})
    client.answers["limits"] = ANSWER | {"configured": True}
    assert run("limits", "--json").json["configured"] is True
    assert "until" not in run("limits").err


def test_a_rate_that_is_none_is_a_usage_error(run, client):
    assert run("limits", "--upload", "fast").code == 2
    unclear = run("limits", "--upload", "20mb/s")
    assert unclear.code == 2
    assert "160Mbit/s" in unclear.err
    assert client.calls == []


def test_no_bytes_at_all_is_no_rate_that_could_be_taken_for_no_limit(run, client):
    ran = run("limits", "--upload", "0")
    assert ran.code == 2
    assert "none" in ran.err
    assert client.calls == []
