"""Columns of records are what pyarrow makes of the same numbers, without what it loads to make them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.store.records import numbers_column, read_columns, texts_column

NUMBERS = {
    "float32": np.array([0.1, np.nan, -np.inf, 0.0, 3e38, 1, 2, 3, 4], np.float32),
    "float64": np.array([1e-300, np.pi]),
    "int64": np.array([-(2**62), 7]),
    "every second": np.arange(10)[::2],
    "bool": np.array([True, False, True, True, False, False, False, True, True]),
    "one": np.array([False]),
}


@pytest.mark.parametrize("values", NUMBERS.values(), ids=NUMBERS)
def test_numbers(values, tmp_path):
    ours, theirs = numbers_column(values), pa.array(values)
    assert ours.type == theirs.type and len(ours) == len(theirs)
    # A NaN equals no other.
    np.testing.assert_array_equal(ours.to_numpy(zero_copy_only=False), values)
    assert not ours.null_count
    if values.dtype.kind in "if":
        pq.write_table(pa.table({"a": theirs}), tmp_path / "a.parquet")
        (read,) = read_columns(tmp_path / "a.parquet", len(values), {"a": "if"}).values()
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)


def test_texts():
    values = ["0123", "", "ä€", "f" * 16]
    assert texts_column(values).equals(pa.array(values))


@pytest.mark.parametrize("values", [[1, None, 3], [True, False, True]], ids=str)
def test_what_is_no_column_of_numbers_is_refused(values, tmp_path):
    pq.write_table(pa.table({"a": values}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="its column a does not hold 3 numbers"):
        read_columns(tmp_path / "a.parquet", 3, {"a": "iuf"})


READ = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
from os import listdir
from pathlib import Path
from bench.data import parquet
from bench.store.records import numbers_column, read_columns, texts_column

path = Path(sys.argv[1], "test.parquet")
columns = {"n": numbers_column(np.arange(3)), "t": texts_column(["a", "b", "c"])}
pq.write_table(pa.Table.from_arrays([*columns.values()], names=[*columns]), path)
threads = len(listdir("/proc/self/task")) if sys.platform == "linux" else 0
read_columns(path, 3, {"n": "i"})
assert "pandas" not in sys.modules
images = pa.array([{"bytes": b"1", "path": "1"}, {"bytes": b"2", "path": "2"}])
pq.write_table(pa.table({"image": images, "label": [0, 1]}), path)
source = parquet.find(path.parent).source("test")
assert [row.label for row in source.read().items] == source.labels().tolist() == [0, 1]
assert threads == (len(listdir("/proc/self/task")) if sys.platform == "linux" else 0), "a thread was started"
"""


def test_reading_loads_no_pandas_and_starts_no_thread(tmp_path):
    # A thread of Arrow's may abort Python at its end: issues 34314 and 50482 of apache/arrow.
    command = [sys.executable, "-c", READ, str(tmp_path)]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True)
    assert not run.returncode, run.stderr
