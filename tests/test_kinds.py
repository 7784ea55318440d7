"""What kind of file a descriptor leads to, told without asking who serves it."""

from __future__ import annotations

import os
import socket
import tempfile

import pytest
from cached import kinds


def test_files_and_memory_are_regular_and_nothing_else_is(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as file, socket.socket() as connection:
        memory = os.memfd_create("x")
        folder = os.open(tmp_path, os.O_RDONLY)
        path = os.open(tmp_path, os.O_PATH)
        with monkeypatch.context() as no_asking:
            no_asking.delattr(os, "fstat")
            found = [kinds.is_regular(fd) for fd in (file.fileno(), memory)]
            others = [kinds.is_regular(fd) for fd in (reader, writer, folder, path, connection.fileno())]
        for fd in (memory, folder, path, reader, writer):
            os.close(fd)
    assert found == [True, True]
    assert others == [False] * 5


def test_a_descriptor_that_is_closed_is_an_error():
    with tempfile.TemporaryFile() as file:
        number = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        kinds.is_regular(number)


def test_where_the_library_cannot_tell_the_file_system_is_asked(monkeypatch):
    monkeypatch.setattr(kinds, "_libc", object())
    with tempfile.TemporaryFile() as file:
        assert kinds.is_regular(file.fileno())
