"""What a daemon has loaded when it says that it is ready: each library here was a good part of the start once."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import cached
import pytest

#: Not before readiness, and why not.
LATER = {
    "zeroconf": "readiness does not wait for mDNS",
    "prometheus_client": "loaded with the first request for figures",
    "google": "the origin is asked when somebody wants its objects",
    "requests": "comes with google-cloud-storage",
    "redis": "one way of keeping objects, and not the usual one",
    "htcondor": "ClassAds are evaluated in the matchmaker's child",
    "htcondor2": "ClassAds are evaluated in the matchmaker's child",
    "classad2": "ClassAds are evaluated in the matchmaker's child",
    "cached.matching.engine": "ClassAds are evaluated in the matchmaker's child",
    "libtorrent": "with a port configured, it is started with the first torrent",
    "rich": "for the commands that show a table",
    "fsspec": "for jobs",
    "cached.client": "for jobs",
    "cached.fs": "for jobs",
    "sqlalchemy.orm": "the catalog speaks SQL, without objects",
    "sqlalchemy.ext": "the catalog speaks SQL, without objects",
    "unittest": "for tests",
}

#: The command as its script starts it; the names of all modules are written down at the moment of readiness.
PROGRAM = """
import sys
from pathlib import Path
from cached import notify

def ready(status, say=notify.ready, to=Path(sys.argv.pop(1))):
    to.write_text("\\n".join(sys.modules))
    say(status)

notify.ready = ready
sys.argv[0] = "cached"
from cached_cli.start import main
main()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def too_early(loaded: set[str]) -> dict[str, str]:
    return {name: why for name, why in LATER.items() if name in loaded}


@pytest.mark.daemon
def test_a_daemon_is_ready_before_it_loads_what_readiness_does_not_need(cluster, tmp_path):
    node = cluster.start("a", cluster_mdns="true", node_bittorrent=f"127.0.0.1:{free_port()}")
    node.may_log = "mDNS"
    listed = tmp_path / "modules"
    _, *arguments = node.command()
    node.command = lambda: [sys.executable, "-c", PROGRAM, str(listed), *arguments]
    node.restart()
    loaded = set(listed.read_text().split())
    assert {"sqlalchemy", "aiohttp.web", "cached.daemon.daemon"} <= loaded, "this is not the daemon's list"
    assert too_early(loaded) == {}
    assert node.http("GET", "/v1/metrics").status == 200


def test_the_composition_root_alone_loads_none_of_it_either():
    done = subprocess.run(
        [sys.executable, "-c", "import cached.daemon, sys; print('\\n'.join(sys.modules))"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert too_early(set(done.stdout.split())) == {}


def test_loading_the_daemon_leaves_collector_and_tls_as_they_were():
    program = (
        "import gc, ssl, cached.daemon; assert gc.isenabled(); assert gc.get_freeze_count();"
        "assert 'set_default_verify_paths' not in vars(ssl.SSLContext);"
        "print(len(ssl.create_default_context().get_ca_certs()))"
    )
    plain = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"
    found = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        for code in (program, plain)
    ]
    assert found[0] == found[1]


def test_every_connection_by_aiohttp_brings_a_context_of_its_own():
    """The library's own was loaded without the public authorities (`cached.daemon.loading`): it trusts nobody."""
    careless = []
    for path in Path(cached.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func).rpartition(".")[2]
            given = {keyword.arg for keyword in call.keywords}
            wanted = {"TCPConnector": "ssl", "ClientSession": "connector"}.get(name)
            if wanted is not None and wanted not in given:
                careless.append(f"{path}:{call.lineno}: {name} without {wanted}=")
    assert careless == []
