"""Syncthing: every node knows every other, one folder is shared by all."""

from __future__ import annotations

import json
import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from bench.rivals.course import CannotRun, Course, first_line

_PORT = 22000
_GUI = 8384
_FOLDER = "bench"
_OFF = {
    "globalAnnounceEnabled": "false",
    "localAnnounceEnabled": "false",
    "relaysEnabled": "false",
    "natEnabled": "false",
    "startBrowser": "false",
    "urAccepted": "-1",
    "autoUpgradeIntervalH": "0",
    "crashReportingEnabled": "false",
    "reconnectionIntervalS": "2",
    "progressUpdateIntervalS": "1",
    "setLowPriority": "false",
}


class Syncthing:
    """Connected and scanned before the race begins; then the source goes online with its folder."""

    name = "Syncthing"

    def version(self) -> str:
        """Return Syncthing's version."""
        return first_line("syncthing", "--version").partition(" (")[0]

    def prepare(self, course: Course) -> None:
        """Let the source hash its folder and pause it, then start the others and wait until all are connected."""
        everybody = [0, *course.everybody()]
        ids = {number: _identity(course.home(number)) for number in everybody}
        self._keys = {}
        for number in everybody:
            folder = course.data if number == 0 else course.home(number) / "data"
            folder.mkdir(exist_ok=True)
            (folder / ".stfolder").mkdir(exist_ok=True)
            self._keys[number] = _configure(course, number, ids, folder)
        self._start(course, 0)
        course.wait(lambda: self._scanned(course), "a scanned folder")
        self._pause(course, paused=True)
        for number in course.everybody():
            self._start(course, number)
        course.wait(lambda: all(self._connected(course, number) for number in everybody), "connected nodes")

    def race(self, course: Course) -> None:
        """Let the source share the folder, and wait until all files have their final names."""
        self._pause(course, paused=False)
        course.wait_for_files({number: course.home(number) / "data" for number in course.everybody()})

    def _start(self, course: Course, number: int) -> None:
        course.start(
            number,
            "syncthing",
            "serve",
            "--no-browser",
            "--no-restart",
            "--no-upgrade",
            f"--home={course.home(number)}",
            environment={**os.environ, "HOME": str(course.home(number)), "STNODEFAULTFOLDER": "1"},
        )
        course.wait_for_port(number, _GUI)

    def _connected(self, course: Course, number: int) -> bool:
        seen = self._rest(course, number, "system/connections")["connections"].values()
        return sum(bool(one["connected"]) for one in seen) == course.receivers

    def _scanned(self, course: Course) -> bool:
        state = self._rest(course, 0, f"db/status?folder={_FOLDER}")
        return bool(state["state"] == "idle" and state["localBytes"] == course.size)

    def _pause(self, course: Course, *, paused: bool) -> None:
        words = ("-X", "PATCH", "-d", json.dumps({"paused": paused}))
        self._rest(course, 0, f"config/folders/{_FOLDER}", *words)

    def _rest(self, course: Course, number: int, path: str, *words: str) -> Any:
        said = course.ask(
            number,
            "curl",
            "-sf",
            "-H",
            f"X-API-Key: {self._keys[number]}",
            *words,
            f"http://127.0.0.1:{_GUI}/rest/{path}",
        )
        return json.loads(said) if said.strip() else None


def _identity(home: Path) -> str:
    subprocess.run(
        ["syncthing", "generate", f"--home={home}", "--no-default-folder"], check=True, capture_output=True
    )
    own = ET.parse(home / "config.xml").getroot().find("device")
    if own is None:
        raise CannotRun("syncthing generate wrote no device")
    return own.attrib["id"]


def _configure(course: Course, number: int, ids: dict[int, str], folder: Path) -> str:
    """Write a node's configuration; return the key of its REST interface."""
    path = course.home(number) / "config.xml"
    tree = ET.parse(path)
    root = tree.getroot()
    options, gui = root.find("options"), root.find("gui")
    if options is None or gui is None:
        raise CannotRun("syncthing generate wrote another kind of configuration")
    _set(gui, "address", f"127.0.0.1:{_GUI}")
    _set(options, "listenAddress", f"tcp://{course.address(number)}:{_PORT}")
    for name, value in _OFF.items():
        _set(options, name, value)
    for device in root.findall("device"):
        root.remove(device)
    shared = ET.SubElement(
        root,
        "folder",
        {
            "id": _FOLDER,
            "path": str(folder),
            "type": "sendonly" if number == 0 else "receiveonly",
            "rescanIntervalS": "0",
            "fsWatcherEnabled": "false",
        },
    )
    for other, identity in ids.items():
        device = ET.SubElement(root, "device", {"id": identity, "compression": "never"})
        ET.SubElement(device, "address").text = f"tcp://{course.address(other)}:{_PORT}"
        ET.SubElement(shared, "device", {"id": identity})
    tree.write(path)
    return gui.findtext("apikey", "")


def _set(parent: ET.Element, name: str, value: str) -> None:
    found = parent.find(name)
    if found is None:
        found = ET.SubElement(parent, name)
    found.text = value
