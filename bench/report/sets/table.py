"""A set as a Parquet file in the Hugging Face image layout, which ``parquet:DIR`` reads as a set of images.

A picture file holds 8 bit and no floats. So ``image`` is the adversarial image rounded, to look at and to load, and
``x_adv`` beside it holds the same image as it was judged: the bytes of its float32 values.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from bench.report.sets.kept import AdversarialSet, Part, text
from bench.report.sets.rounded import Rounding, png

if TYPE_CHECKING:
    import pyarrow as pa


def write(adversarial: AdversarialSet, file: BinaryIO) -> str:
    """Write a set, one chunk of images at a time, and return the line on what rounding did to ``image``.

    Columns: ``image`` and ``clean``, each a PNG as bytes and path; ``label``; ``row``, its number in the image set;
    ``x_adv``, little-endian float32 (C, H, W) as bytes; ``prediction_clean`` and ``prediction_adv`` where they are
    kept; of a targeted attack ``target``, the class that the image was to be given, -1 where any wrong one would do.
    The metadata of the file are under the key ``crossfire``.

    Raises:
        NotKept: a chunk has gone or is damaged.
    """
    import pyarrow.parquet as pq

    attack = adversarial.result.cell.attack
    assert attack is not None
    rounding, schema = Rounding(attack.threat), _schema(adversarial)
    with pq.ParquetWriter(file, schema) as writer:
        for part in adversarial.parts():
            writer.write_table(_rows(adversarial, part, rounding, schema))
    return str(rounding)


def _schema(adversarial: AdversarialSet) -> pa.Schema:
    import pyarrow as pa

    digest = hashlib.sha256()
    for part in adversarial.parts():
        digest.update(part.adversarial.astype("<f4").tobytes())
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("image", picture), ("label", pa.int64()), ("row", pa.int64())]
    columns += [("clean", picture), ("x_adv", pa.binary())]
    if adversarial.predictions is not None:
        columns += [("prediction_clean", pa.int64()), ("prediction_adv", pa.int64())]
    if adversarial.targets is not None:
        columns += [("target", pa.int64())]
    classes = {"_type": "ClassLabel", "names": list(adversarial.images.class_names)}
    features = {"image": {"_type": "Image"}, "clean": {"_type": "Image"}, "label": classes}
    features |= {name: {"_type": "Value", "dtype": str(kind)} for name, kind in columns if name not in features}
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}, sort_keys=True),
        "crossfire": text(adversarial.metadata({"x_adv": digest.hexdigest()})),
    }
    return pa.schema(columns, metadata=metadata)


def _rows(adversarial: AdversarialSet, part: Part, rounding: Rounding, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    names = [f"{row:06d}.png" for row in part.rows]
    columns = {
        "image": _pictures(rounding.of(part), names),
        "label": part.labels,
        "row": part.rows,
        "clean": _pictures(part.clean, names),
        "x_adv": [image.astype("<f4").tobytes() for image in part.adversarial],
    }
    if (predictions := adversarial.predictions) is not None:
        columns["prediction_clean"] = predictions.clean[part.positions]
        columns["prediction_adv"] = predictions.adversarial[part.positions]
    if adversarial.targets is not None:
        columns["target"] = part.targets
    return pa.table(columns, schema=schema)


def _pictures(pixels: np.ndarray, names: list[str]) -> list[dict[str, object]]:
    return [{"bytes": png(each), "path": name} for each, name in zip(pixels, names, strict=True)]
