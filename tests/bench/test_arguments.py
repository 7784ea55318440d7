"""Command lines of benches."""

from __future__ import annotations

import argparse

import pytest
from bench.arguments import size


def test_a_size_is_written_as_in_the_configuration():
    assert [size(text) for text in ("7", "1 kB", "2MiB")] == [7, 1000, 2 << 20]


def test_what_is_no_size_is_refused_in_a_line(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=size)
    with pytest.raises(SystemExit):
        parser.parse_args(["--size", "20zz"])
    assert "'20zz' is not a size: write bytes" in capsys.readouterr().err
