"""The doors of a node: its two sockets, what they answer with, and the news of it on the local network."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from cached import machine, notify
from cached.api import sockets
from cached.api.auth import Callers
from cached.api.handles import HandleServer
from cached.api.local import LocalServer
from cached.api.metrics import ApiMetrics
from cached.api.verbs import AttestVerbs, ObjectVerbs, Verbs
from cached.config.values import split_address
from cached.node import (
    attest,
    begin,
    copies,
    fetch,
    limits,
    locate,
    match,
    objects,
    read,
    replicate,
    revise,
    scopes,
    status,
    usage,
    verify,
)
from cached.node.caller import Caller
from cached.node.node import Node
from cached.node.spool import Spooled, spooled
from cached.peers.mdns import Mdns

if TYPE_CHECKING:
    from prometheus_client.core import Metric


async def open_sockets(node: Node, undo: contextlib.AsyncExitStack, expect: Callable[[], None]) -> None:
    """Answer on `api.sock` and `data.sock`: on those that the service manager gives, else on new ones."""
    config = node.config
    folder, counted = config.node.runtime_dir, ApiMetrics()
    machine.make_runtime_dir(folder)
    callers = Callers(admins=config.policy.admins, user_domain=config.cluster.user_domain)
    behind = verbs(node)
    given = notify.inherited()

    def spool(caller: Caller, size: int) -> AbstractAsyncContextManager[Spooled]:
        return spooled(node, caller.user, size, fairly=True)

    local = LocalServer(behind, callers, counted=counted, registry=_Figures(node, counted), spool=spool)
    handles = HandleServer(behind, callers, metrics=counted, expect=expect)
    listeners = {}
    for name, kind in (("api.sock", socket.SOCK_STREAM), ("data.sock", socket.SOCK_SEQPACKET)):
        listeners[name] = given.get(name) or sockets.listen(folder / name, kind)
        listeners[name].setblocking(False)
        if name not in given:
            undo.callback(sockets.forget, folder / name)
        undo.callback(listeners[name].close)
    await local.start(listeners["api.sock"])
    undo.push_async_callback(local.close)
    handles.start(listeners["data.sock"])
    undo.push_async_callback(handles.close)


class _Figures:
    """The figures of the node and of its sockets; what they need is loaded when they are first asked for."""

    def __init__(self, node: Node, counted: ApiMetrics) -> None:
        self._node = node
        self._counted = counted

    def collect(self) -> Iterable[Metric]:
        from cached.node.metrics import NodeMetrics

        return NodeMetrics(self._node, self._counted).registry.collect()


def verbs(node: Node) -> Verbs:
    """Return what local callers may ask of the node."""
    return Verbs(
        open_now=partial(read.open_now, node),
        open_path=partial(read.open_path, node),
        release=partial(read.release, node),
        begin=partial(begin.begin, node),
        list_sets=partial(read.list_sets, node),
        show=partial(read.show, node),
        files=partial(read.files, node),
        update=partial(revise.update, node),
        extend=partial(revise.extend, node),
        delete=partial(revise.delete, node),
        replicate=partial(replicate.replicate, node),
        fetch=partial(fetch.fetch, node),
        verify=partial(verify.verify, node),
        match=partial(match.match, node),
        nodes=partial(status.nodes, node),
        status=partial(status.status, node),
        usage=partial(usage.usage, node),
        limits=partial(limits.show, node),
        limit=partial(limits.change, node),
        locate=partial(locate.locate, node),
        objects=object_verbs(node),
        attests=AttestVerbs(
            sign=partial(attest.attest, node),
            check=partial(attest.check, node),
            read=node.objects.hands.read,
        ),
    )


def object_verbs(node: Node) -> ObjectVerbs:
    """Return what local callers may ask of the node about objects of Cloud Storage."""
    return ObjectVerbs(
        open_now=partial(objects.open_now, node),
        open=partial(objects.open_object, node),
        release=partial(objects.release, node),
        stat=partial(objects.stat, node),
        list=partial(objects.list_objects, node),
        copies=partial(copies.list_copies, node),
        stream=partial(objects.stream, node),
        put=partial(objects.put, node),
        clear=partial(objects.clear, node),
        end_scope=partial(scopes.end, node),
    )


def start_mdns(node: Node, undo: contextlib.AsyncExitStack) -> None:
    """Make the node known on the local network, when it is configured and the node is in a cluster."""
    config = node.config
    if not config.cluster.mdns or config.cluster.key_file is None:
        return
    mdns = Mdns(
        node.identity.cluster_id,
        node.id,
        node.directory.address,
        split_address(config.node.listen)[0],
        node.directory.learn,
    )
    mdns.start()
    undo.callback(mdns.stop)
