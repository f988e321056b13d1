"""Synthetic image files for tests."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def noise(seed, height=32, width=32, channels=3):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path, images, labels, *, names=None, columns=("image", "label")):
    """Write encoded images and labels in the Hugging Face layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = [None if image is None else {"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    table = pa.table({columns[0]: pa.array(values, kind), columns[1]: pa.array(labels)})
    if names is not None:
        table = table.replace_schema_metadata({"class_names": json.dumps(names)})
    pq.write_table(table, path)
