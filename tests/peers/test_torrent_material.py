from __future__ import annotations

import hashlib
import time

import pytest
from cached.peers.authority import admit, init_cluster
from cached.peers.identity import Identity
from cached.peers.keyfile import write_private


def session(libtorrent):
    return libtorrent.session(
        {
            "listen_interfaces": "127.0.0.1:0s",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "alert_mask": libtorrent.alert.category_t.all_categories,
            "allow_multiple_connections_per_ip": True,
        }
    )


def torrent(libtorrent, folder):
    folder.mkdir()
    (folder / "0").write_bytes(hashlib.sha256(b"x").digest() * 4096)
    files = libtorrent.file_storage()
    files.add_file("0", 131072)
    made = libtorrent.create_torrent(files, 16384, libtorrent.create_torrent.v2_only)
    libtorrent.set_piece_hashes(made, str(folder))
    return libtorrent.torrent_info(made.generate())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_libtorrent_moves_bytes_between_two_nodes_of_a_cluster_and_to_no_other(tmp_path):
    libtorrent = pytest.importorskip("libtorrent")
    key_file = tmp_path / "cluster.key"
    init_cluster(key_file)
    write_private(tmp_path / "node.key", admit(key_file).text)
    lab = Identity.open(tmp_path / "1", key_file=key_file)
    node = Identity.open(tmp_path / "2", key_file=tmp_path / "node.key")
    stranger = Identity.open(tmp_path / "3", key_file=None)
    info = torrent(libtorrent, tmp_path / "data")
    sessions, handles = [], []
    try:
        for number, identity in enumerate((lab, node, stranger)):
            material = identity.torrent_material()
            sessions.append(session(libtorrent))
            params = libtorrent.add_torrent_params()
            params.ti = info
            params.save_path = str(tmp_path / ("data" if number == 0 else f"copy{number}"))
            params.root_certificate = material.root_certificate
            handles.append(sessions[-1].add_torrent(params))
            handles[-1].set_ssl_certificate_buffer(
                material.certificate, material.private_key, material.dh_params
            )
        end = time.monotonic() + 120
        while not handles[0].status().is_seeding:
            assert time.monotonic() < end
            time.sleep(0.05)
        port = sessions[0].ssl_listen_port()
        while not handles[1].status().is_seeding:
            assert time.monotonic() < end
            for handle in handles[1:]:
                handle.connect_peer(("127.0.0.1", port))
            time.sleep(0.2)
        assert handles[2].status().total_payload_download == 0
    finally:
        for one in sessions:
            one.pause()
        del handles, sessions
