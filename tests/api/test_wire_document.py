"""docs/wire.md says what the sockets do: every route, operation, limit and error code stands in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cached import errors, packets, wire
from cached.api import connection, exchange, local, requests
from cached.api.auth import Callers
from cached.api.metrics import ApiMetrics
from prometheus_client import CollectorRegistry
from tests.api.fake_node import FakeNode

TEXT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()


def test_every_route_is_documented(tmp_path):
    server = local.LocalServer(
        FakeNode(tmp_path).verbs(), Callers(admins=[]), counted=ApiMetrics(), registry=CollectorRegistry()
    )
    for route in server.routes():
        path = route.path.replace(":.+", "")
        assert re.search(rf"{route.method}\b[^|\n]*{re.escape(path)}", TEXT), f"{route.method} {path}"


def test_every_operation_and_error_code_is_documented():
    for op in connection._OPERATIONS:
        assert f'"op": "{op}"' in TEXT
    for code in errors._BY_CODE:
        if code != "daemon_unreachable":
            assert f"`{code}`" in TEXT


@pytest.mark.parametrize(
    "number",
    [
        packets.MAX_PACKET,
        packets.MAX_DESCRIPTORS,
        connection.MOST_WAITING,
        local.MOST_AT_ONCE,
        wire.MAX_TOKEN,
        exchange.MOST_PINS,
    ],
)
def test_the_limits_are_the_real_ones(number):
    assert f"{number:,}" in TEXT


def test_the_examples_are_what_the_sockets_understand():
    examples = [json.loads(each) for each in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    asked = [each for each in examples if "op" in each]
    assert {each["op"] for each in asked} == {"open", "close", "create", "add", "object", "put", "attest"}
    for each in asked:
        request = requests.decode(wire.encode(each))
        unknown = set(each) - set(request.__struct_fields__)
        assert not unknown
        if request.options is not None:
            assert set(each["options"]) == set(request.options.__struct_fields__)
