"""Which address peers are told to dial."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Sequence

from cached.peers.route import join_address, split_address

_SIOCGIFADDR = 0x8915


def address_of(advertise: str, listen: str, port: int, peers: Sequence[str]) -> str:
    """Return `host:port` for peers to dial.

    `advertise` is a host, an address (with `:port` where a forwarder changes it) or the name of an
    interface. When it is empty: the host listened on; if that is any (0.0.0.0), the address from which the
    first peer is reached; without peers the host's first address that is not loopback; else loopback.
    """
    if advertise:
        return _explicit(advertise, port)
    host = split_address(listen)[0] if listen else ""
    if host and not _is_any(host):
        return join_address(host, port)
    return join_address(_route_to(peers) or _first_address() or "127.0.0.1", port)


def _explicit(advertise: str, port: int) -> str:
    address = interface_address(advertise)
    if address:
        return join_address(address, port)
    with contextlib.suppress(ValueError):
        return join_address(str(ipaddress.ip_address(advertise.strip("[]"))), port)
    with contextlib.suppress(ValueError):
        return join_address(*split_address(advertise))
    return join_address(advertise, port)


def interface_address(name: str) -> str:
    """Return the IPv4 address of a network interface; empty when there is no such interface or address."""
    if len(name.encode()) > 15:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def is_loopback(host: str) -> bool:
    """Tell whether a host, given as an address, is this machine alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _is_any(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


def _route_to(peers: Sequence[str]) -> str:
    for peer in peers:
        try:
            host, port = split_address(peer)
            found = socket.getaddrinfo(host, port or 9, type=socket.SOCK_DGRAM)
        except (ValueError, OSError):
            continue
        for family, kind, proto, _, address in found:
            with contextlib.suppress(OSError), socket.socket(family, kind, proto) as probe:
                probe.connect(address)  # sends nothing: it only asks the kernel for the route
                return str(probe.getsockname()[0])
    return ""


def _first_address() -> str:
    for _, name in socket.if_nameindex():
        address = interface_address(name)
        if address and not is_loopback(address):
            return address
    return ""
