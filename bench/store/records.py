"""Records: what became of every image of a cell, one Parquet row each, read without torch.

Only whole columns of numbers, one for each image, leave this module; what else a file may hold is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.outcomes import Distances
from bench.store import files
from bench.types import DISTANCE_NORMS, MAX_DISTANCES, CellResult

if TYPE_CHECKING:
    import numpy as np
    import pyarrow
    import pyarrow.parquet as pq

    from bench.store.working_store import Store

_SHARES = ("clean_share", "clean_margin", "adversarial_share", "adversarial_margin")
_SUMS = ("l1", "l0")
#: Columns of records as they are written.
RECORD_COLUMNS = (
    *("index", "input_sha", "label", "clean", *_SHARES[:2], "adversarial", *_SHARES[2:], "robust"),
    *("linf", "l2", *_SUMS, "forwards", "backwards", "seconds"),
)
#: The last column of the records of a targeted attack: the class to reach, -1 where any wrong one was a success.
TARGET_COLUMN = "target"
#: The columns of every version, the newest first.
ALL_COLUMNS = (
    (*RECORD_COLUMNS, TARGET_COLUMN),
    *(tuple(name for name in RECORD_COLUMNS if name not in later) for later in ((), _SUMS, (*_SHARES, *_SUMS))),
)


def largest_records(n: int) -> int:
    """Return the largest size of the records of ``n`` images in bytes: some 150 for each, and a header."""
    return 2**20 + 2**10 * n


def numbers_column(values: np.ndarray[Any, Any]) -> pyarrow.Array:
    """Return numbers or truth values (n,) as a column of a table.

    ``pyarrow.array`` and ``to_numpy`` load pandas first, which takes half a second.
    """
    import numpy as np
    import pyarrow as pa

    if values.dtype == np.bool_:
        bits = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, data])


def texts_column(values: Sequence[str]) -> pyarrow.Array:
    """Return texts (n,) as a column of a table; of why, see :func:`numbers_column`."""
    import numpy as np
    import pyarrow as pa

    texts = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))])


def read_columns(path: Path, n: int, kinds: Mapping[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return some columns of the records of ``n`` images, (n,) each.

    Args:
        path: of the file.
        n: images.
        kinds: the names of the columns, and the kinds of NumPy types that each may have, such as ``"iu"``.

    Raises:
        FileNotFoundError: there are no records.
        ValueError: they are not whole, have other rows, or lack a column of such a kind.
        OSError: they cannot be read now.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = files.read(path, largest_records(n))
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False)
        if file.metadata.num_rows != n:
            raise ValueError(f"{file.metadata.num_rows} rows for {n} images")
        # Only what is asked for is unpacked: a column of texts may be larger than memory.
        schema = file.schema_arrow
        for name in kinds:
            if name not in schema.names or not pa.types.is_primitive(schema.field(name).type):
                raise _no_numbers(name, n)
        columns = {name: _numbers(name, _column(file, name)) for name in kinds}
    except pa.ArrowException as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    for name, column in columns.items():
        if column.dtype.kind not in kinds[name] or len(column) != n:
            raise _no_numbers(name, n)
    return columns


def _column(file: pq.ParquetFile, name: str) -> pyarrow.Array:
    # A thread of Arrow's that still holds bytes of Python's when Python ends aborts the process, or lets it hang.
    return file.read([name], use_threads=False).column(name).combine_chunks()


def _numbers(name: str, array: pyarrow.Array) -> np.ndarray[Any, Any]:
    import numpy as np
    import pyarrow as pa

    kind = array.type
    if array.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise _no_numbers(name, len(array))
    dtype = np.dtype(kind.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _no_numbers(name: str, n: int) -> ValueError:
    return ValueError(f"its column {name} does not hold {n} numbers")


def with_distances(result: CellResult, store: Store) -> CellResult:
    """Return a result with the distances of its images, if it has none and the store holds its records.

    They are missing in results of older versions, whose records have L-infinity and L2.
    """
    attack = result.cell.attack
    if result.distances is not None or attack is None or attack.threat.eps is not None:
        return result
    norm, n = attack.threat.norm, result.cell.data.n
    right = result.outcomes_under_attack
    if norm not in DISTANCE_NORMS or n > MAX_DISTANCES or right is None or not store.has_records(result):
        return result
    try:
        moved = read_columns(store.records(result.key), n, {norm: "iuf"})[norm].tolist()
        text = Distances([inf if right else each for right, each in zip(right, moved, strict=True)]).encode()
        Distances.decode(text, n)
    except (FileNotFoundError, ValueError, OverflowError):
        # A version that kept no such column, or something else in its place.
        return result
    return result.model_copy(update={"distances": text})


def passes_by_image(result: CellResult, store: Store) -> list[float] | None:
    """Return the forwards and backwards of each image of a result together; ``None`` where the store has no records."""
    n = result.cell.data.n
    if not store.has_records(result):
        return None
    try:
        columns = read_columns(store.records(result.key), n, dict.fromkeys(("forwards", "backwards"), "iuf"))
    except (FileNotFoundError, ValueError):
        # A version that kept no such column, or something else in its place.
        return None
    passes: list[float] = (columns["forwards"] + columns["backwards"]).tolist()
    return passes if all(0 <= each < inf for each in passes) else None
