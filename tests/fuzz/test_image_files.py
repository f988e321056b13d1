"""Whatever bytes an image set is made of: images, or one line."""

import io
import pickle
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from bench.data import open_set
from bench.types import UsageError
from tests.data.image_files import encode, noise, write_parquet
from tests.fuzz import cases


def opened(name):
    try:
        images = open_set(name, "test", folder=Path())
    except UsageError as error:
        assert len(str(error).splitlines()) == 1 and 0 < len(str(error)) <= 2000
        return
    assert images.images.dtype == np.uint8 and len(images.images) == len(images.labels)


def _image(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 12, 12)).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


IMAGES = {
    "png": _image("PNG"),
    "palette.png": _image("PNG", "P"),
    "jpg": _image("JPEG"),
    "exif.jpg": _image("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    "bmp": _image("BMP"),
    "tif": _image("TIFF", compression="tiff_lzw"),
    "webp": _image("WEBP"),
    "ppm": _image("PPM"),
    "gif": _image("GIF", "P"),
}


@st.composite
def damaged(draw, intact):
    """Return bytes with a few flipped, cut out, put in or repeated."""
    data = bytearray(intact)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([0, 1, 1, 2, 4, 8, 100, len(data)]))
        piece = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]),
                st.just(bytes(data[start : start + length]) * 2),
            )
        )
        data[start : start + (0 if draw(st.booleans()) else len(piece))] = piece
        if draw(st.integers(0, 5)) == 0:
            del data[start : start + length]
    return bytes(data)


@cases(0.3)
@given(st.sampled_from(sorted(IMAGES)).flatmap(lambda name: st.tuples(st.just(name), damaged(IMAGES[name]))))
def test_damaged_images(drawn):
    name, data = drawn
    for label in ("ant", "bee"):
        (Path("tree") / label).mkdir(parents=True, exist_ok=True)
        (Path("tree") / label / "1.png").write_bytes(data)
    opened("folder:tree")
    write_parquet(Path("rows") / "test.parquet", [data, data], [0, 1], names=["a", "b"])
    opened("parquet:rows")


def _parquet(**options):
    path = Path("whole.parquet")
    write_parquet(path, [encode(noise(i, 8, 8)) for i in range(4)], **options)
    return path.read_bytes()


@cases(0.2)
@given(st.data())
def test_damaged_tables(data):
    intact = _parquet(labels=data.draw(st.sampled_from([[0, 1, 0, 1], ["a", "b", "a", "b"]])), names=["a", "b"])
    Path("table").mkdir(exist_ok=True)
    (Path("table") / "test.parquet").write_bytes(data.draw(damaged(intact)))
    opened("parquet:table")


labels = st.one_of(
    st.sampled_from([[0, 1], [1.5, 0], ["a", "b"], [None, 0], [10**30, 0], [-1, 0], 7, None, {}, [[0], [1]], b"\0\1"]),
    st.lists(st.integers(), max_size=3),
)
arrays = st.sampled_from(
    [
        np.zeros((2, 3072), np.uint8),
        np.zeros((2, 3000), np.uint8),
        np.zeros(6144, np.uint8),
        np.zeros((2, 3072)),
        None,
        3,
    ]
    + [[[0] * 3072] * 2, [[0], [0, 1]], {}, "x", np.zeros((0, 3072), np.uint8), np.array([None, 1], dtype=object)]
)


@cases(0.2)
@given(
    arrays, labels, st.sampled_from([["a", "b"], ["a"], [], 3, None, [1, 2], "ab", {"a": 1}]), st.booleans(), st.data()
)
def test_odd_and_damaged_pickles(array, label, names, damage, data):
    folder = Path("cifar-10-batches-py")
    folder.mkdir(exist_ok=True)
    for name, body in (("test_batch", {"data": array, "labels": label}), ("batches.meta", {"label_names": names})):
        intact = pickle.dumps(body, protocol=2)
        (folder / name).write_bytes(data.draw(damaged(intact)) if damage else intact)
    opened("cifar10")


@cases(0.1)
@given(st.data())
def test_damaged_matrices(data):
    buffer = io.BytesIO()
    savemat(
        buffer, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [10]]}, do_compression=data.draw(st.booleans())
    )
    Path("test_32x32.mat").write_bytes(data.draw(damaged(buffer.getvalue())))
    opened("svhn")


@cases(0.2)
@given(st.data())
def test_odd_descriptions(data):
    from tests.fuzz import hostile

    folder = Path("described")
    write_parquet(folder / "test.parquet", [encode(noise(i, 8, 8)) for i in range(2)], [0, 1])
    odd = data.draw(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                ['{"class_names": 3}', '{"class_names": [1, [2]]}', '{"class_names": ["a", "a"]}', "[" * 5000]
            ),
            st.sampled_from(
                ['{"splits": {"a": {"file": [], "sha256": 1}}}', '{"splits": [1]}', "9" * 5000, "NaN", "null"]
            ),
            st.sampled_from(['{"splits": {"a": {"file": "test.parquet", "sha256": "0"}}}', '"\\ud800"']),
            hostile.values.map(lambda value: f'{{"class_names": {hostile.text(value)}}}'),
        )
    )
    (folder / "meta.json").write_bytes(odd if isinstance(odd, bytes) else odd.encode())
    opened("parquet:described")
