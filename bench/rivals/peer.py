"""One libtorrent client with the settings it comes with: TORRENT FOLDER ADDRESS:PORT DONE PEER..."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import libtorrent


def main(torrent: str, folder: str, listen: str, done: str, *peers: str) -> None:
    """Load, tell it of all peers, and create the file `done` when everything has come; then go on seeding."""
    session = libtorrent.session({"listen_interfaces": listen})
    asked = libtorrent.add_torrent_params()
    asked.ti = libtorrent.torrent_info(torrent)
    asked.save_path = folder
    handle = session.add_torrent(asked)
    for peer in peers:
        host, _, port = peer.rpartition(":")
        handle.connect_peer((host, int(port)))
    while not handle.status().is_seeding:
        time.sleep(0.02)
    Path(done).touch()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
