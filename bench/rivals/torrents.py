"""BitTorrent as others do it: aria2 with a tracker, and libtorrent as it comes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import libtorrent

from bench.rivals.course import Course, first_line

_PORT = 6881
_TRACKER = 6969
_PIECE = 256 * 1024


def torrent(course: Course, *, tracker: str = "", first_version: bool) -> Path:
    """Make the torrent of the data, with pieces of 256 KiB; return the file. Its root is the data's folder name."""
    files = [
        libtorrent.create_file_entry(f"{course.data.name}/{name}", (course.data / name).stat().st_size)
        for name in course.names
    ]
    flags = libtorrent.create_torrent.v1_only if first_version else libtorrent.create_torrent.v2_only
    made = libtorrent.create_torrent(files, _PIECE, flags)
    if tracker:
        made.add_tracker(tracker)
    libtorrent.set_piece_hashes(made, str(course.data.parent))
    path = course.root / "data.torrent"
    path.write_bytes(libtorrent.bencode(made.generate()))
    return path


class Aria2:
    """aria2 on all nodes; they find each other by a tracker beside the source, and go on seeding."""

    name = "BitTorrent (aria2, opentracker)"

    def version(self) -> str:
        """Return aria2's version, where there is a tracker too."""
        first_line("opentracker", "-h")
        return first_line("aria2c", "--version")

    def prepare(self, course: Course) -> None:
        """Start the tracker and the seed."""
        address = course.address(0)
        self._torrent = torrent(course, tracker=f"http://{address}:{_TRACKER}/announce", first_version=True)
        known = str(libtorrent.torrent_info(str(self._torrent)).info_hashes().v1)
        (course.home(0) / "known").write_text(f"{known}\n")
        course.start(
            0, "opentracker", "-i", address, "-p", str(_TRACKER), "-d", course.home(0), "-w", "known"
        )
        course.wait_for_port(0, _TRACKER)
        self._client(course, 0, course.data.parent, "--bt-seed-unverified=true")
        course.wait_for_port(0, _PORT)

    def race(self, course: Course) -> None:
        """Start everybody, and wait until each has said that it is complete."""
        done = course.root / "complete"
        done.write_text('#!/bin/sh\ntouch "$COMPLETE"\n')
        done.chmod(0o755)
        for number in course.everybody():
            self._client(course, number, course.home(number), f"--on-bt-download-complete={done}")
        course.wait(
            lambda: all((course.home(number) / "complete").exists() for number in course.everybody()),
            "complete receivers",
        )

    def _client(self, course: Course, number: int, folder: Path, *more: str) -> None:
        course.start(
            number,
            "aria2c",
            *more,
            f"--dir={folder}",
            f"--listen-port={_PORT}",
            "--enable-dht=false",
            "--bt-enable-lpd=false",
            "--bt-max-peers=0",
            "--bt-request-peer-speed-limit=1000M",
            "--file-allocation=none",
            "--seed-ratio=0.0",
            "--summary-interval=0",
            "--console-log-level=warn",
            self._torrent,
            environment={**os.environ, "COMPLETE": str(course.home(number) / "complete")},
        )


class PlainLibtorrent:
    """libtorrent with the settings it comes with; every node is told of all others."""

    name = "libtorrent, its defaults"

    def version(self) -> str:
        """Return the library's version."""
        return f"libtorrent {libtorrent.version}"

    def prepare(self, course: Course) -> None:
        """Start the seed."""
        self._torrent = torrent(course, first_version=False)
        self._client(course, 0, course.data.parent)
        course.wait_for_port(0, _PORT)

    def race(self, course: Course) -> None:
        """Start everybody, and wait until each has said that it is complete."""
        for number in course.everybody():
            self._client(course, number, course.home(number))
        course.wait(
            lambda: all((course.home(number) / "complete").exists() for number in course.everybody()),
            "complete receivers",
        )

    def _client(self, course: Course, number: int, folder: Path) -> None:
        others = [course.address(other) for other in range(course.receivers + 1) if other != number]
        course.start(
            number,
            sys.executable,
            "-m",
            "bench.rivals.peer",
            self._torrent,
            folder,
            f"{course.address(number)}:{_PORT}",
            course.home(number) / "complete",
            *(f"{other}:{_PORT}" for other in others),
        )
