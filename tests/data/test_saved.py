"""Saved adversarial images are read from what people write, matched by row or position, and never run."""

import io
import os
import pickle
import resource
import zipfile

import numpy as np
import pytest
import torch

from bench.data import open_set, saved
from bench.types import UsageError

ROWS = np.array([7, 3, 40, 11, 12])


@pytest.fixture(scope="module")
def digits():
    return open_set("digits", "test", folder=None)


@pytest.fixture
def x_adv(digits):
    """Images float32 (5, 1, H, W) near those of the rows."""
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (5, *digits.images.shape[1:]))
    return (digits.images[ROWS] / 255 + noise).clip(0, 1).astype(np.float32)


def write(path, **arrays):
    (np.savez_compressed if path.stem == "small" else np.savez)(path, **arrays)
    return path


def taken(path, digits, rows=ROWS, array=""):
    saved.checked(path, digits, rows, array)
    return saved.matched(path, digits.images.shape[1:], rows, array).of(rows)


def fault(path, digits, rows=ROWS, array=""):
    with pytest.raises(UsageError) as error:
        saved.checked(saved.path_of(str(path)), digits, rows, array)
    assert str(error.value).count("\n") == 0
    return str(error.value)


@pytest.mark.parametrize("stem", ["plain", "small"])
def test_images_are_matched_by_row_number_in_any_order_and_more_than_needed(stem, digits, x_adv, tmp_path):
    order = np.array([4, 0, 3, 2, 1])
    path = write(
        tmp_path / f"{stem}.npz",
        x_adv=np.concatenate([x_adv[order], x_adv[:1]]),
        rows=np.append(ROWS[order], 99),
        labels=digits.labels[np.append(ROWS[order], 99)],
    )
    np.testing.assert_array_equal(taken(path, digits), x_adv)
    np.testing.assert_array_equal(taken(path, digits, ROWS[[2, 0]]), x_adv[[2, 0]])


def test_what_people_save_is_read(digits, x_adv, tmp_path):
    pixels = np.rint(x_adv * 255).astype(np.uint8)
    nhwc, fortran = x_adv.transpose(0, 2, 3, 1), np.asfortranarray(x_adv)
    np.save(tmp_path / "a.npy", fortran)
    np.save(tmp_path / "b.npy", x_adv.astype(">f8"))
    np.save(tmp_path / "c.npy", pixels[:, 0])
    np.savez(tmp_path / "d.npz", nhwc)
    np.savez(tmp_path / "e.npz", images=x_adv, y=digits.labels[ROWS], clean=digits.images[ROWS] / 255)
    torch.save(torch.from_numpy(x_adv), tmp_path / "f.pt")
    torch.save({"adv_complete": torch.from_numpy(x_adv).double()}, tmp_path / "g.pth")
    torch.save({"apgd-ce": (torch.from_numpy(x_adv), torch.zeros(5)), "x": 3}, tmp_path / "h.pth")
    torch.save(torch.from_numpy(x_adv), tmp_path / "i.pt", _use_new_zipfile_serialization=False)
    for path in sorted(tmp_path.iterdir()):
        expected = pixels.astype(np.float32) / 255 if path.stem == "c" else x_adv
        got = taken(path, digits, array="apgd-ce" if path.stem == "h" else "")
        assert got.dtype == np.float32 and got.flags.c_contiguous
        np.testing.assert_array_equal(got, expected, err_msg=path.name)


def test_the_first_label_or_clean_image_that_differs_is_named(digits, x_adv, tmp_path):
    labels, clean = digits.labels[ROWS].copy(), digits.images[ROWS].copy()
    labels[3] = (labels[3] + 1) % 10
    said = fault(write(tmp_path / "y.npz", x_adv=x_adv, y=labels), digits)
    assert f"'y' of image 3 is {labels[3]}, and the label of row 11 of digits test is" in said and "1 of 5" in said
    clean[4, 0, 2, 2] ^= 1
    said = fault(write(tmp_path / "x.npz", adv=x_adv, x=clean), digits)
    assert "'x' of image 4 is not row 12 of digits test" in said
    nan = clean.astype(np.float32) / 255
    nan[0, 0, 0, 0] = np.nan
    assert "'x' of image 0 is not row 7" in fault(write(tmp_path / "n.npz", adv=x_adv, x=nan), digits)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (lambda x: {"x_adv": x[:0], "rows": ROWS[:0]}, "'x_adv' has no images"),
        (lambda x: {"x_adv": x[:4]}, "has 4 images and the cell 5"),
        (lambda x: {"x_adv": x[:4], "rows": ROWS[:4]}, "lacks 1 of the 5 images of the cell; the first is row 12"),
        (lambda x: {"x_adv": x, "rows": ROWS * 0}, "row 0 is in 'rows' twice"),
        (lambda x: {"x_adv": x, "rows": ROWS / 2}, "'rows' is float64 (5,), not a whole number for each of 5"),
        (lambda x: {"x_adv": x * 255}, "divide by 255, or save them as uint8"),
        (lambda x: {"x_adv": (x - 0.5) / 0.25}, "undo the normalisation"),
        (lambda x: {"x_adv": (x * 255).astype(np.int64)}, "is of type int64; pixels are uint8"),
        (lambda x: {"x_adv": x[:, :, :-1]}, "the images of this set are (n, 1, "),
        (lambda x: {"perturbed": x}, "it holds 'perturbed'; name the images with array ="),
        (lambda x: {"x_adv": np.array([{}, 1] * 5, dtype=object)}, "holds pickled Python objects"),
        (lambda x: {"x_adv": x, "y": np.array([None] * 5)}, "'y' is object (5,), not a whole number"),
        (lambda x: {"x_adv": x, "x": x[:2]}, "not a clean image for each of 5"),
    ],
)
def test_what_does_not_fit_is_one_line(arrays, says, digits, x_adv, tmp_path):
    assert says in fault(write(tmp_path / "a.npz", **arrays(x_adv)), digits)


def test_a_shape_that_may_be_either_layout_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 3, 3), np.float32))
    with pytest.raises(UsageError, match="may be NCHW or NHWC"):
        saved.matched(tmp_path / "a.npy", (3, 3, 3), np.arange(2))


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def bomb(path):
    """An npz of a few kilobytes whose header claims, and that does unpack to, a thousand times its size."""
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (16, 1, 512, 512)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_adv.npy", header.getvalue() + bytes(16 * 512 * 512 * 4))


def test_hostile_files_are_one_line_and_run_nothing(digits, x_adv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = write(tmp_path / "whole.npz", x_adv=x_adv).read_bytes()
    np.save("whole.npy", x_adv)
    torch.save(torch.from_numpy(x_adv), "whole.pt")
    for name in ("npz", "npy", "pt"):
        data = (tmp_path / f"whole.{name}").read_bytes()
        (tmp_path / f"cut.{name}").write_bytes(data[: len(data) * 2 // 3])
        (tmp_path / f"empty.{name}").touch()
        (tmp_path / f"other.{name}").write_bytes(b"\x1b[31mPK\x03\x04" * 40)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"x_adv": Evil()}, "evil.pth")
    (tmp_path / "evil.npy").write_bytes(b"\x93NUMPY\x01\x00" + pickle.dumps(Evil()))
    np.save("evil2.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    # Its middle is another's: the header of the array claims more than there is.
    (tmp_path / "lies.npz").write_bytes(whole.replace(b"(5, 1,", b"(9, 1,"))
    torch.save(torch.zeros(1).expand(50_000, *digits.images.shape[1:]), "wide.pt")
    torch.save(torch.from_numpy(x_adv).to_sparse(), "sparse.pt")
    torch.save(torch.from_numpy(x_adv).to(torch.complex64), "complex.pt")
    torch.save(["text"], "list.pt")
    bomb("bomb.npz")
    os.symlink("loop.npz", "loop.npz")
    os.mkfifo("pipe.npz")
    os.mkdir("folder.npz")
    with open("huge.npy", "wb") as file:
        file.truncate(2**40)
    names = sorted(os.listdir())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = {name: fault(name, digits) for name in names if not name.startswith("whole")}
    # The bomb alone unpacks to 16 MiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 12 * 1024
    assert sorted(os.listdir()) == names
    assert "asks for posix.mkdir" in said["evil.pth"] and "pickled" in said["evil2.npy"]
    assert "has 1,099,511,627,776 bytes" in said["huge.npy"] and "a folder" in said["folder.npz"]
    assert not [line for line in said.values() if "\x1b" in line]
    assert fault("gone.npz", digits).startswith("no file ") and "not '.csv'" in fault_of_csv(tmp_path, digits)


def fault_of_csv(folder, digits):
    (folder / "a.csv").touch()
    return fault(folder / "a.csv", digits)
