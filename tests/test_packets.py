from __future__ import annotations

import fcntl
import os
import resource
import socket

import pytest
from cached import packets
from cached.errors import Busy, UsageError


@pytest.fixture
def ends():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        yield left, right


@pytest.fixture
def opened(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_packets_keep_their_bounds(ends):
    left, right = ends
    packets.send(left, b"one")
    packets.send(left, b"x" * packets.MAX_PACKET)
    assert packets.receive(right) == (b"one", [])
    assert packets.receive(right) == (b"x" * packets.MAX_PACKET, [])


def test_descriptors_arrive_in_order_and_are_not_inherited(ends, opened):
    left, right = ends
    with open(os.devnull) as other:
        packets.send(left, b"{}", [opened, other.fileno(), opened])
    packet = packets.receive(right)
    assert os.pread(packet.descriptors[0], 7, 0) == b"content"
    assert os.pread(packet.descriptors[1], 7, 0) == b""
    assert os.pread(packet.descriptors[2], 7, 0) == b"content"
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in packet.descriptors)
    packets.close_all(packet.descriptors)


def test_as_many_descriptors_as_the_kernel_takes_fit(ends, opened):
    left, right = ends
    packets.send(left, b"{}", [opened] * packets.MAX_DESCRIPTORS)
    packet = packets.receive(right)
    assert len(packet.descriptors) == packets.MAX_DESCRIPTORS
    packets.close_all(packet.descriptors)


def test_a_closed_connection_reads_as_none(ends):
    left, right = ends
    left.close()
    assert packets.receive(right) is None


def test_a_non_blocking_socket_says_that_nothing_is_there(ends):
    _, right = ends
    right.setblocking(False)
    with pytest.raises(BlockingIOError):
        packets.receive(right)


def test_what_no_packet_can_carry_is_refused_before_it_is_sent(ends, opened):
    left, _ = ends
    for data, descriptors in [(b"", []), (b"x" * (packets.MAX_PACKET + 1), []), (b"{}", [opened] * 254)]:
        with pytest.raises(UsageError):
            packets.send(left, data, descriptors)


def test_a_packet_that_is_too_long_is_an_error_and_leaks_no_descriptor(ends, opened):
    left, right = ends
    before = len(os.listdir("/proc/self/fd"))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, opened.to_bytes(4, "little"))]
    left.sendmsg([b"x" * (packets.MAX_PACKET + 1)], rights)
    with pytest.raises(UsageError, match="arrived"):
        packets.receive(right)
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_that_do_not_fit_into_the_table_are_an_error_and_leak_nothing(ends, opened):
    left, right = ends
    packets.send(left, b"{}", [opened] * 20)
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(fd) for fd in os.listdir("/proc/self/fd")}
    room_for_five = next(top for top in range(soft) if len(set(range(top)) - taken) == 5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (room_for_five, hard))
    try:
        with pytest.raises(Busy, match="descriptors"):
            packets.receive(right)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before
