"""What numpy and Arrow lay out in buffers comes back as views of the file's own pages, which nobody can write to."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cached.client.pickled import ALIGNMENT, load_from, pickled, write

ROWS = 10_000
NUMBERS = range(ROWS)


def round_trip(obj: Any) -> Any:
    with tempfile.TemporaryFile() as file:
        parts, size = pickled(obj)
        assert write(file.fileno(), parts) == size
        return load_from(file.fileno(), size)


def shared() -> list[range]:
    """Addresses of what this process has mapped shared, and for reading alone."""
    with open("/proc/self/maps") as maps:
        spans = [line.split()[0].split("-") for line in maps if " r--s " in line]
    return [range(int(start, 16), int(stop, 16)) for start, stop in spans]


def is_view(address: int, size: int) -> bool:
    return any(address in one and address + size <= one.stop for one in shared())


def check_array(array: np.ndarray) -> None:
    assert is_view(array.ctypes.data, array.nbytes)
    assert array.ctypes.data % ALIGNMENT == 0
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


ARRAYS = {
    "structured": np.ones(ROWS, dtype=[("a", "i4"), ("b", "f8"), ("c", "S3")]),
    "in Fortran's order": np.asfortranarray(np.arange(1000.0).reshape(10, 100)),
    "without a value": np.zeros((0, 4)),
    "of no dimension": np.array(5.0),
    "with gaps": np.arange(2 * ROWS)[::2],
    "backwards": np.arange(ROWS)[::-1],
    "transposed": np.arange(6000).reshape(10, 20, 30).transpose(1, 2, 0),
    "broadcast": np.broadcast_to(np.arange(3), (1000, 3)),
    "of big-endian numbers": np.arange(ROWS, dtype=">i4"),
    "of text": np.array([str(number) for number in range(100)]),
    "of complex numbers": np.full(ROWS, 1 + 2j),
    "of dates": np.arange(ROWS).astype("M8[s]"),
    "of dates with gaps": np.arange(ROWS).astype("M8[ms]")[::3],
    "of durations": np.arange(ROWS).astype(">m8[ns]"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_comes_back_as_a_view_of_what_was_dumped(kind):
    array = ARRAYS[kind]
    loaded = round_trip(array)
    assert (loaded.dtype, loaded.shape) == (array.dtype, array.shape)
    assert (loaded == array).all()
    if array.size:
        check_array(loaded)


def test_the_same_array_twice_is_one_array_again():
    strided = np.arange(100)[::2]
    loaded = round_trip([strided, strided])
    assert loaded[0] is loaded[1]


def test_arrays_of_python_objects_are_dumped_as_well():
    loaded = round_trip(np.array([1, "a", None, [2]], dtype=object))
    assert list(loaded) == [1, "a", None, [2]]


COLUMNS = {
    "numbers": pa.array(NUMBERS),
    "text": pa.array([str(number) for number in NUMBERS]),
    "some missing": pa.array([None if number % 3 else number for number in NUMBERS]),
    "lists": pa.array([[number] * (number % 4) for number in NUMBERS]),
    "lists of lists": pa.array([[[number], []] for number in NUMBERS]),
    "structs": pa.array([{"a": number, "b": str(number)} for number in NUMBERS]),
    "maps": pa.array([[("k", number)] for number in NUMBERS], pa.map_(pa.string(), pa.int64())),
    "a dictionary": pa.array([f"value {number % 3}" for number in NUMBERS]).dictionary_encode(),
    "bits": pa.array([number % 2 == 0 for number in NUMBERS]),
    "times": pa.array(NUMBERS, pa.timestamp("us", "UTC")),
    "fixed": pa.array([b"abcd"] * ROWS, pa.binary(4)),
}


def buffers(array: pa.Array) -> Iterator[pa.Buffer]:
    yield from (each for each in array.buffers() if each is not None)
    if isinstance(array, pa.DictionaryArray):
        yield from buffers(array.dictionary)


def check_column(array: pa.Array) -> None:
    found = [each for each in buffers(array) if each.size]
    assert found
    for buffer in found:
        assert is_view(buffer.address, buffer.size)
        assert buffer.address % ALIGNMENT == 0
        assert not buffer.is_mutable


@pytest.mark.parametrize("kind", COLUMNS)
def test_an_arrow_array_comes_back_as_views(kind):
    column = COLUMNS[kind]
    loaded = round_trip(column)
    loaded.validate(full=True)
    assert loaded.equals(column)
    assert loaded.type == column.type
    check_column(loaded)


def test_a_table_and_its_batches_come_back_as_views_with_their_schema():
    table = pa.table(COLUMNS).replace_schema_metadata({"from": "a test"})
    table = pa.concat_tables([table, table])
    loaded, batches = round_trip((table, table.to_batches()))
    assert loaded.equals(table, check_metadata=True)
    for chunk in (chunk for column in loaded.columns for chunk in column.chunks):
        check_column(chunk)
    for batch, wanted in zip(batches, table.to_batches(), strict=True):
        assert batch.equals(wanted)
        for column in batch.columns:
            check_column(column)
    assert round_trip(table.slice(0, 0)).num_rows == 0
    assert round_trip(table.slice(5, 7)).equals(table.slice(5, 7))


def test_numpy_s_view_of_an_arrow_column_is_the_shared_memory_too():
    array = round_trip(COLUMNS["numbers"]).to_numpy(zero_copy_only=True)
    assert (array == np.arange(ROWS)).all()
    check_array(array)


def test_a_column_outlives_its_table_and_the_map_goes_with_it():
    before = len(shared())
    loaded = round_trip(pa.table({"numbers": COLUMNS["numbers"]}))
    column = loaded["numbers"].chunk(0)
    del loaded
    gc.collect()
    assert len(shared()) == before + 1
    assert column[ROWS - 1].as_py() == ROWS - 1
    del column
    gc.collect()
    assert len(shared()) == before


LEAN = """
import sys, tempfile
import pyarrow as pa
from cached.client.pickled import load_from, pickled, write
table = pa.table({"a": range(1000), "b": [str(n) for n in range(1000)]})
with tempfile.TemporaryFile() as file:
    parts, size = pickled(table)
    write(file.fileno(), parts)
    assert load_from(file.fileno(), size).equals(table)
print("pandas" in sys.modules)
"""


def test_arrow_data_needs_no_pandas():
    ended = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


WRITING = """
import sys, tempfile, ctypes
import numpy as np
from cached.client.pickled import load_from, pickled, write
with tempfile.TemporaryFile() as file:
    parts, size = pickled(np.arange(1000))
    write(file.fileno(), parts)
    loaded = load_from(file.fileno(), size)
ctypes.memset(loaded.ctypes.data, 0, 8)
"""


def test_the_kernel_stops_a_program_that_writes_into_a_view():
    env = {**os.environ, "PYTHONFAULTHANDLER": ""}
    ended = subprocess.run([sys.executable, "-c", WRITING], check=False, capture_output=True, env=env)
    assert ended.returncode == -signal.SIGSEGV
