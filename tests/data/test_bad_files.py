"""Whatever is wrong with a file is one line that names it, and the row where there is one."""

import io
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from bench.data import open_set
from bench.types import UsageError
from tests.data.image_files import encode, noise, write_parquet


def error_of(name, split="test", **options):
    with pytest.raises(UsageError) as caught:
        open_set(name, split, **{"folder": None, **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parquet_error(tmp_path, images, labels, **options):
    write_parquet(tmp_path / "test.parquet", images, labels, **{"names": ["a", "b"], **options})
    return error_of(f"parquet:{tmp_path}")


GOOD = encode(noise(0))


def test_rows_that_are_no_images(tmp_path):
    sixteen = io.BytesIO()
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(sixteen, "PNG")
    assert "test.parquet row 1: not an image" in parquet_error(tmp_path, [GOOD, b"<html>404</html>"], [0, 0])
    assert "test.parquet row 2: a damaged image" in parquet_error(tmp_path, [GOOD, GOOD, GOOD[:-400]], [0, 0, 0])
    assert "test.parquet row 0: no image bytes" in parquet_error(tmp_path, [None], [0])
    assert "row 1: an image of mode I;16" in parquet_error(tmp_path, [GOOD, sixteen.getvalue()], [0, 0])


def test_labels_that_are_none(tmp_path):
    error = parquet_error(tmp_path, [GOOD, GOOD], [0, 2], names=["a", "b"])
    assert "test.parquet row 1: label 2 is not one of the 2 classes" in error
    assert "row 0: label -1 is not one" in parquet_error(tmp_path, [GOOD, GOOD], [-1, 1])
    assert "row 1: no label" in parquet_error(tmp_path, [GOOD, GOOD], [0, None])
    assert "row 0: label 'cat' is not one of a, b" in parquet_error(tmp_path, [GOOD], ["cat"])
    assert "column 'label' is double, not int64 or string" in parquet_error(tmp_path, [GOOD], [0.5])


def test_columns_that_are_not_there(tmp_path):
    error = parquet_error(tmp_path, [GOOD], [0], columns=("picture", "label"))
    assert "test.parquet: no column 'image'; its columns are picture, label" in error
    assert "no column 'label'" in parquet_error(tmp_path, [GOOD], [0], columns=("image", "class"))
    pq.write_table(pa.table({"image": [GOOD], "label": [0]}), tmp_path / "test.parquet")
    assert "column 'image' is binary, not struct<bytes: binary" in error_of(f"parquet:{tmp_path}")


def test_files_cut_short_or_overwritten(tmp_path):
    path = tmp_path / "test.parquet"
    write_parquet(path, [encode(noise(i)) for i in range(50)], [0] * 50, names=["a", "b"])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "test.parquet: not a whole Parquet file" in error_of(f"parquet:{tmp_path}")
    path.write_bytes(b"")
    assert "test.parquet: not a whole Parquet file" in error_of(f"parquet:{tmp_path}")
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(2000) + content[middle + 2000 :])
    assert "test.parquet" in error_of(f"parquet:{tmp_path}")


def test_a_missing_shard(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [GOOD], [0])
    assert "train-00001-of-00002.parquet is missing" in error_of(f"parquet:{tmp_path}", "train")


def test_shards_that_disagree_on_the_classes(tmp_path):
    write_parquet(tmp_path / "test.parquet", [GOOD], [0], names=["a", "b"])
    write_parquet(tmp_path / "train.parquet", [GOOD], [0], names=["b", "a"])
    assert "class names differ" in error_of(f"parquet:{tmp_path}")


def test_an_empty_set(tmp_path):
    write_parquet(tmp_path / "test.parquet", [], pa.array([], pa.int64()), names=["a", "b"])
    assert "no images" in error_of(f"parquet:{tmp_path}")
    (tmp_path / "tree" / "test" / "ant").mkdir(parents=True)
    assert "no image in its class folders (ant)" in error_of(f"folder:{tmp_path / 'tree'}")


def test_an_image_file_that_is_none(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"hello")
    assert "ant/1.png: not an image" in error_of(f"folder:{tmp_path}")


def test_a_named_set_of_another_size(tmp_path):
    write_parquet(tmp_path / "svhn" / "test.parquet", [encode(noise(0, 40, 40))], [0])
    error = error_of("svhn", folder=tmp_path)
    assert "row 0 is 40x40, not 32x32" in error
    assert open_set("svhn", "test", folder=tmp_path, image_size=(32, 32)).images.shape == (1, 3, 32, 32)
    assert error_of("svhn", folder=tmp_path) == error


def test_names_that_are_none(tmp_path):
    assert "unknown dataset 'cifar1'; did you mean 'cifar10'?" in error_of("cifar1")
    assert "no folder" in error_of(f"parquet:{tmp_path / 'gone'}")
    assert "no folder is named" in error_of("folder:")
    assert "no *.parquet in" in error_of(f"parquet:{tmp_path}")
    assert "no <split>/<class>/" in error_of(f"folder:{tmp_path}")
    assert "the data folder" in error_of("cifar10", folder=tmp_path / "gone")
    assert "image_size = [0, 8]" in error_of("digits", image_size=(0, 8))


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_a_cifar_batch_runs_no_code(tmp_path, capsys):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a", "b"]}))
    (folder / "test").write_bytes(pickle.dumps({"data": Evil(), "fine_labels": [0]}))
    error = error_of("cifar100", folder=tmp_path)
    assert "test: not a whole CIFAR batch" in error and "builtins.print" in error
    assert capsys.readouterr().out == ""


def test_damaged_cifar_and_svhn_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batch = pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, protocol=2)
    (folder / "test_batch").write_bytes(batch)
    assert "batches.meta is missing" in error_of("cifar10", folder=tmp_path)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    assert len(open_set("cifar10", "test", folder=tmp_path)) == 2
    (folder / "test_batch").write_bytes(batch[:-100])
    assert "test_batch: not a whole CIFAR batch" in error_of("cifar10", folder=tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": np.zeros((2, 3000), np.uint8), "labels": [0, 1]}))
    assert "(2, 3000) with 2 labels, not uint8 (N, 3072)" in error_of("cifar10", folder=tmp_path)
    (folder / "data_batch_1").write_bytes(batch)
    assert "data_batch_2 is missing" in error_of("cifar10", "train", folder=tmp_path)

    path = tmp_path / "test_32x32.mat"
    savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [11]]})
    assert "test_32x32.mat row 1: label 11 is not one of the 10 classes" in error_of("svhn", folder=tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    assert "test_32x32.mat: not a whole SVHN file" in error_of("svhn", folder=tmp_path)
    savemat(path, {"X": np.zeros((32, 32, 2)), "y": [[1], [1]]})
    assert "test_32x32.mat: not a whole SVHN file (ValueError" in error_of("svhn", folder=tmp_path)
    savemat(path, {"X": np.zeros((32, 32, 3, 2)), "y": [[1], [1]]})
    assert "test_32x32.mat: X is float64 (32, 32, 3, 2), not uint8" in error_of("svhn", folder=tmp_path)
