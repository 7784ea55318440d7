from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from cached import config
from cached.config import values as config_values
from cached.errors import BadConfig, UsageError


@pytest.fixture
def read(tmp_path):
    """Load a configuration from text, in an environment that holds nothing but what is given."""

    def load(text="", *, env=None, flags=None, instance="", host="node-3", user="alice"):
        file = tmp_path / "config.toml"
        file.write_text(text, encoding="utf-8")
        env = {"HOME": "/home/alice", **(env or {})}
        return config.load(file, env=env, flags=flags or {}, instance=instance, host=host, user=user)

    return load


@pytest.fixture(params=[0, 1234])
def uid(request, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: request.param)
    return request.param


FULL = r"""
[node]
name = "{host}"
state_dir = "/var/lib/cached"
runtime_dir = "/run/cached"
listen = "0.0.0.0:7400"
bittorrent = "[::1]:7401"
advertise = "eth0"
[store]
disk = "/var/cache/cached"
capacity = "500GB"
memory = "/dev/shm/cached"
memory_capacity = "8GiB"
[cluster]
key_file = "/etc/cached/cluster.key"
peers = ["10.0.0.1:7400", "node-1.example.org:7400"]
mdns = false
user_domain = "unl.edu"
[replication]
replicas = 3
methods = ["direct"]
encryption = "off"
upload_limit = "10MB"
download_limit = "160Mb/s"
[policy]
requirements = "TARGET.Owner != \"mallory\""
max_lease = "30d"
default_lease = "1d"
quota = "200GB"
admins = ["root", "ops"]
[origin]
buckets = { genomes = ["*"], lab = ["ada", "group:bio"] }
readers = 3
threads = 8
endpoint = "http://127.0.0.1:9023/"
credentials = "/etc/cached/account.json"
[objects]
memory = "2GiB"
disk = ""
block = "4MiB"
redis = "unix:///run/redis.sock"
freshness = "30s"
sharing = "owner"
[attributes]
Site = "\"nebraska\""
HasGpu = true
Slots = 8
"""


def test_every_key_of_the_contract_is_read_into_its_unit(read):
    read_config = read(FULL)
    assert read_config.node.name == "node-3"
    assert read_config.node.state_dir == Path("/var/lib/cached")
    assert read_config.node.bittorrent == "[::1]:7401"
    assert read_config.store.capacity == 500 * 10**9
    assert read_config.store.memory == Path("/dev/shm/cached")
    assert read_config.store.memory_capacity == 8 * 2**30
    assert read_config.cluster.key_file == Path("/etc/cached/cluster.key")
    assert read_config.cluster.peers == ("10.0.0.1:7400", "node-1.example.org:7400")
    assert read_config.cluster.mdns is False
    assert read_config.replication.replicas == 3
    assert read_config.replication.methods == ("direct",)
    assert read_config.replication.encryption == "off"
    assert read_config.replication.upload_limit == 10_000_000
    assert read_config.replication.download_limit == 20_000_000
    assert read_config.policy.requirements == 'TARGET.Owner != "mallory"'
    assert (read_config.policy.max_lease, read_config.policy.default_lease) == (30 * 86_400, 86_400)
    assert read_config.policy.quota == 200 * 10**9
    assert read_config.policy.admins == ("root", "ops")
    assert read_config.origin.buckets == {"genomes": ("*",), "lab": ("ada", "group:bio")}
    assert (read_config.origin.readers, read_config.origin.threads) == (3, 8)
    assert read_config.origin.endpoint == "http://127.0.0.1:9023"
    assert read_config.origin.credentials == Path("/etc/cached/account.json")
    assert (read_config.objects.memory, read_config.objects.disk) == (2 << 30, None)
    assert (read_config.objects.block, read_config.objects.redis) == (4 << 20, "unix:///run/redis.sock")
    assert (read_config.objects.freshness, read_config.objects.sharing) == (30, "owner")
    assert read_config.attributes == {"Site": '"nebraska"', "HasGpu": "true", "Slots": "8"}
    keys = [f"{section}.{key}" for section, table in tomllib.loads(FULL).items() for key in table]
    assert {key for key, _, source in config.show(read_config) if source != "default"} == set(keys)
    assert [key for key, _, _ in config.show(read_config)] == keys


def test_without_any_file_there_is_a_whole_configuration(uid, monkeypatch, tmp_path):
    env = {"HOME": str(tmp_path)}
    found = config.load(None, env=env, flags={}, instance="", host="h", user="u")
    assert found.node.name == "h"
    assert found.node.listen == "0.0.0.0:7400"
    assert found.node.bittorrent == "0.0.0.0:7401"
    assert found.cluster.key_file is None
    assert found.replication.replicas == -1
    assert found.replication.upload_limit is None
    if uid:
        assert found.node.state_dir == tmp_path / ".local/state/cached"
        assert found.store.disk == tmp_path / ".cache/cached"
        assert found.node.runtime_dir == Path(f"/tmp/cached-{uid}")
        assert found.store.memory == Path(f"/dev/shm/cached-{uid}")
    else:
        assert found.node.state_dir == Path("/var/lib/cached")
        assert found.node.runtime_dir == Path("/run/cached")
        assert found.store.disk == Path("/var/cache/cached")
    assert set(found.sources.values()) == {"default"}


def test_the_users_directories_follow_xdg(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    env = {"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c", "XDG_RUNTIME_DIR": "/run/user/1234"}
    found = config.load(None, env=env, flags={}, instance="", host="h", user="u")
    assert (found.node.state_dir, found.store.disk) == (Path("/s/cached"), Path("/c/cached"))
    assert found.node.runtime_dir == Path("/run/user/1234/cached")


def test_systemd_replaces_defaults_and_nothing_else(read, uid):
    env = {
        "STATE_DIRECTORY": "/sd/state",
        "RUNTIME_DIRECTORY": "/sd/run:/sd/more",
        "CACHE_DIRECTORY": "/sd/cache",
    }
    found = read('[store]\ndisk = "/mine"', env=env, instance="a")
    assert (found.node.state_dir, found.node.runtime_dir) == (Path("/sd/state"), Path("/sd/run"))
    assert found.store.disk == Path("/mine")
    assert found.sources["node.state_dir"] == "environment STATE_DIRECTORY"


def test_instances_of_one_file_share_nothing_by_default(read, uid):
    both = [read('[store]\ncapacity = "1GB"', instance=name) for name in ("a", "b")]
    for key in ("node.name", "node.state_dir", "node.runtime_dir", "store.disk", "store.memory"):
        values = [each.written[key] for each in both]
        assert values[0].removesuffix("-a") == values[1].removesuffix("-b")
        assert values[0] != values[1]
    assert both[0].node.listen == both[0].node.bittorrent == "0.0.0.0:0"


def test_words_variables_and_the_home_are_replaced_in_values(read):
    found = read(
        """
        [node]
        name = "{host}-{instance}"
        state_dir = "$SCRATCH/{user}/${JOB}/{instance}"
        [store]
        disk = "~/cache"
        [cluster]
        peers = ["$HEAD:7400"]
        [attributes]
        List = "{1, 2}"
        Price = "\\"5$$\\""
        """,
        env={"SCRATCH": "/scratch", "JOB": "77", "HEAD": "head"},
        instance="i1",
    )
    assert found.node.name == "node-3-i1"
    assert found.node.state_dir == Path("/scratch/alice/77/i1")
    assert found.store.disk == Path("/home/alice/cache")
    assert found.cluster.peers == ("head:7400",)
    assert found.attributes == {"List": "{1, 2}", "Price": '"5$"'}


def test_an_unset_variable_is_an_error_that_names_key_and_variable(read):
    with pytest.raises(BadConfig, match=r"store\.disk: the variable \$NOWHERE"):
        read('[store]\ndisk = "$NOWHERE/x"')


def test_a_value_that_is_overridden_is_not_expanded(read):
    assert read('[store]\ndisk = "$NOWHERE"', flags={"store.disk": "/d"}).store.disk == Path("/d")


def test_flags_beat_the_environment_and_the_environment_beats_files(read):
    text = '[store]\ndisk = "/file"\ncapacity = "1GB"\nmemory = "/m"'
    env = {"CACHED_STORE_CAPACITY": "2GB", "CACHED_STORE_MEMORY": ""}
    found = read(text, env=env, flags={"store.memory": "/flag"})
    assert (found.store.disk, found.store.capacity, found.store.memory) == (
        Path("/file"),
        2 * 10**9,
        Path("/flag"),
    )
    assert found.sources["store.disk"].endswith("config.toml")
    assert found.sources["store.capacity"] == "environment CACHED_STORE_CAPACITY"
    assert found.sources["store.memory"] == "flag"
    assert found.sources["store.memory_capacity"] == "default"


def test_the_users_file_beats_the_defaults_when_no_file_is_named(tmp_path):
    (tmp_path / "cached").mkdir()
    (tmp_path / "cached" / "config.toml").write_text('[policy]\nquota = "5GB"')
    env = {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path)}
    found = config.load(None, env=env, flags={}, instance="", host="h", user="u")
    assert found.policy.quota == 5 * 10**9
    assert found.sources["policy.quota"] == str(tmp_path / "cached" / "config.toml")


def test_lists_and_booleans_can_come_from_the_environment(read):
    env = {
        "CACHED_CLUSTER_PEERS": "a:1, b:2",
        "CACHED_CLUSTER_MDNS": "no",
        "CACHED_REPLICATION_METHODS": "direct,bittorrent",
        "CACHED_REPLICATION_REPLICAS": "2",
        "CACHED_ATTRIBUTES_Rack": "7",
        "CACHED_POLICY_ADMINS": "",
    }
    found = read("", env=env)
    assert found.cluster.peers == ("a:1", "b:2")
    assert found.cluster.mdns is False
    assert found.replication.methods == ("direct", "bittorrent")
    assert found.replication.replicas == 2
    assert found.attributes == {"Rack": "7"}
    assert found.policy.admins == ()


def test_a_list_in_a_flag_or_a_variable_may_be_written_as_in_the_file(read):
    found = read(flags={"cluster.peers": '["a:1", "b:2"]'}, env={"CACHED_REPLICATION_METHODS": '["direct"]'})
    assert found.cluster.peers == ("a:1", "b:2")
    assert found.replication.methods == ("direct",)
    with pytest.raises(BadConfig, match="is not a list"):
        read(flags={"cluster.peers": '["a:1"'})


def test_attribute_names_have_no_case_of_their_own(read):
    found = read('[attributes]\nSite = "1"', env={"CACHED_ATTRIBUTES_SITE": "2"})
    assert found.attributes == {"Site": "2"}


def test_variables_that_are_no_setting_are_left_alone(read):
    env = {"CACHED_RUNTIME_DIR": "/x", "CACHED_FAULT": "", "CACHED_NR": "/proc/1/fd/3", "CACHED_NODE": "y"}
    assert "default" in read("", env=env).sources["node.runtime_dir"]


def test_empty_values_switch_things_off(read):
    flags = dict.fromkeys(
        ["store.memory", "policy.quota", "cluster.key_file", "replication.upload_limit"], ""
    )
    found = read("", flags=flags)
    assert found.store.memory is found.policy.quota is found.cluster.key_file is None
    assert found.replication.upload_limit is None


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('[stroe]\ndisk = "/d"', r"unknown section \[stroe\]", "store"),
        ('[store]\ncapacty = "1GB"', r"unknown key store\.capacty", r"store\.capacity"),
        ('[node]\ndisk = "/d"', r"unknown key node\.disk", r"store\.disk"),
        ('store = "/d"', "not a section", "store"),
        ('[store]\ncapacity = "1G"', r"store\.capacity: '1G' is not a size .*config\.toml", "GB"),
        ("[store]\ncapacity = 0", r"store\.capacity", ""),
        ('[policy]\nmax_lease = "30"', r"policy\.max_lease: '30' is not a duration", "7d"),
        ("[policy]\nmax_lease = 30", r"policy\.max_lease", ""),
        ('[policy]\nmax_lease = "1h"', "longer than", ""),
        ('[node]\nlisten = "7400"', "HOST:PORT", ""),
        ('[node]\nlisten = "::1:7400"', "HOST:PORT", ""),
        ('[node]\nlisten = "0.0.0.0:70000"', "HOST:PORT", ""),
        ('[node]\nname = "a b"', r"node\.name", ""),
        ('[node]\nstate_dir = "relative"', "not an absolute path", ""),
        ('[node]\nstate_dir = ""', "not an absolute path", ""),
        (f'[node]\nruntime_dir = "/{"x" * 100}"', "too long for a socket", ""),
        ('[cluster]\npeers = "a"', "HOST:PORT", ""),
        ("[cluster]\npeers = [1]", "not a list of strings", ""),
        ('[cluster]\nmdns = "perhaps"', "neither true nor false", ""),
        ("[replication]\nreplicas = -1", "not a number of replicas", "all"),
        ('[replication]\nreplicas = "some"', "not a number of replicas", "all"),
        ('[replication]\nmethods = ["http"]', "not replication methods", ""),
        ('[replication]\nupload_limit = "20mb/s"', "'20mb/s' is not a clear rate", "Mbit/s"),
        ("[replication]\nmethods = []", "not replication methods", ""),
        ('[replication]\nencryption = "none"', "not one of tls, off", ""),
        ('[attributes]\n"a b" = "1"', "not the name of an attribute", ""),
        ("[attributes]\na = []", "not a string", ""),
        ("[store\n", "not TOML", ""),
    ],
)
def test_what_does_not_fit_is_refused_with_key_and_next_step(read, text, said, hint):
    with pytest.raises(BadConfig, match=said) as caught:
        read(text)
    assert re.search(hint, caught.value.hint)


def test_unknown_flags_and_variables_are_errors_too(read):
    with pytest.raises(BadConfig, match=r"flag: unknown key store\.dsk") as caught:
        read("", flags={"store.dsk": "/d"})
    assert "store.disk" in caught.value.hint
    with pytest.raises(BadConfig, match="environment CACHED_STORE_CAPACTY: unknown key"):
        read("", env={"CACHED_STORE_CAPACTY": "1GB"})


def test_a_named_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(BadConfig, match="cannot read"):
        config.load(tmp_path / "none.toml", env={}, flags={}, instance="", host="h", user="u")


def test_clients_look_where_the_contract_says():
    env = {"CACHED_RUNTIME_DIR": "/x", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert config.runtime_dirs_to_try(env) == [
        Path("/x"),
        Path("/run/cached"),
        Path("/run/user/7/cached"),
        Path(f"/tmp/cached-{os.getuid()}"),
    ]
    assert config.runtime_dirs_to_try({})[0] == Path("/run/cached")


def test_a_directory_of_sockets_that_leaves_the_instance_open_is_an_error_that_says_what_to_do():
    with pytest.raises(UsageError, match="no instance is named") as told:
        config.runtime_dirs_to_try({"CACHED_RUNTIME_DIR": "/run/cached-{instance}"})
    assert "--instance" in told.value.hint


def test_buckets_may_be_written_as_one_text(read):
    assert config_values.buckets("genomes=*, lab=ada+group:bio") == {
        "genomes": ("*",),
        "lab": ("ada", "group:bio"),
    }


@pytest.mark.parametrize(
    "line",
    [
        'buckets = ["genomes"]',
        'buckets = { Genomes = ["*"] }',
        "buckets = { genomes = [] }",
        "readers = 0",
        'threads = "many"',
        'endpoint = "storage"',
    ],
)
def test_an_origin_that_cannot_be_is_refused(read, line):
    with pytest.raises(BadConfig, match="origin"):
        read(f"[origin]\n{line}")


def test_a_permission_is_not_remembered_for_longer_than_cloud_storage_takes_to_revoke_it(read):
    with pytest.raises(BadConfig, match="longer than 60 s"):
        read('[objects]\nfreshness = "2m"')


@pytest.mark.parametrize(
    "url",
    ["http://storage.example", "http://10.0.0.7:9023", "http://127.0.0.1@storage.example:80", "http://:80"],
)
def test_tokens_never_go_in_clear_to_another_machine(read, url):
    with pytest.raises(BadConfig, match="tokens in clear") as refused:
        read(f'[origin]\nendpoint = "{url}"')
    assert "https://" in refused.value.hint


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://127.9.0.1", "http://[::1]:80", "https://storage.example"]
)
def test_an_emulator_on_this_machine_needs_no_tls(read, url):
    assert read(f'[origin]\nendpoint = "{url}"').origin.endpoint == url
