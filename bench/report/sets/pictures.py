"""A set as a folder of PNG files, to look at: 8 bit, so what was judged is rounded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from bench.report.sets.kept import AdversarialSet, Array
from bench.report.sets.rounded import Rounding, png
from bench.store.files import make_folders, write_beside

#: A name that is the same folder on every system: none hidden, none that another could stand for.
_PLAIN = re.compile(r"\w(?:[\w ()+,'.&-]{0,198}[\w)+'])?")
#: File systems take names of 255 bytes.
_MAX_NAME_BYTES = 240


def write(adversarial: AdversarialSet, folder: Path) -> str:
    """Write a set into a folder, one chunk of images at a time, and return the line on what rounding did.

    ``test/CLASS/ROW.png`` are the adversarial images, which ``folder:DIR`` reads; ``clean/CLASS/ROW.png`` the clean
    ones. ``set.json`` has the metadata and a row for each image.

    Raises:
        NotKept: a chunk has gone or is damaged.
        OSError: the folder cannot be written.
    """
    attack = adversarial.result.cell.attack
    assert attack is not None
    rounding, classes = Rounding(attack.threat), _folders(adversarial.images.class_names)
    for part in adversarial.parts():
        for kind, images in (("test", rounding.of(part)), ("clean", part.clean)):
            for pixels, row, label in zip(images, part.rows, part.labels, strict=True):
                path = folder / kind / classes[label] / f"{row:06d}.png"
                make_folders(path.parent)
                path.write_bytes(png(pixels))
    rows = {"row": adversarial.rows, "label": adversarial.labels, **_predictions(adversarial)}
    if adversarial.targets is not None:
        rows["target"] = adversarial.targets
    body = adversarial.metadata({}) | {"images": {name: np.asarray(values).tolist() for name, values in rows.items()}}
    write_beside(folder / "set.json", json.dumps(body, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n")
    return str(rounding)


def _predictions(adversarial: AdversarialSet) -> dict[str, Array]:
    predictions = adversarial.predictions
    if predictions is None:
        return {}
    return {"prediction_clean": predictions.clean, "prediction_adv": predictions.adversarial}


def _folders(class_names: tuple[str, ...]) -> list[str]:
    """Return a folder name for each class: its own, or numbers where a name could be another path."""
    distinct = len({name.casefold() for name in class_names}) == len(class_names)
    if distinct and all(_PLAIN.fullmatch(name) and len(name.encode()) <= _MAX_NAME_BYTES for name in class_names):
        return list(class_names)
    return [f"{label:05d}" for label in range(len(class_names))]
