"""What comes from elsewhere cannot run code, leave its folder, or reach the network."""

import ast
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torchvision import datasets
from torchvision.datasets import utils

from bench.config import sections
from bench.data import open_set
from bench.store.working_store import Store
from bench.types import UsageError
from tests.schedule import small

ROOT = Path(__file__).parents[2]


class Fires:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def torch_save(thing, path):
    torch.save(thing, path)


def old_torch_save(thing, path):
    torch.save(thing, path, _use_new_zipfile_serialization=False)


def pickled(thing, path):
    path.write_bytes(pickle.dumps(thing))


@pytest.mark.parametrize("save", [torch_save, old_torch_save, pickled])
@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.safetensors"])
def test_a_pickle_with_a_side_effect_does_not_fire(tmp_path, capsys, save, name):
    fired = tmp_path / "fired"
    save({"features.weight": torch.zeros(1), "more": Fires(fired)}, tmp_path / name)
    text = small.CONFIG.replace('use = "fgsm-at"', f'use = "weights:{tmp_path / name}"')
    assert small.run(tmp_path, "--only", "clean", text=text) == 3
    assert not fired.exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if " failed: " in line]
    assert str(tmp_path / name) in line
    # The same file does fire where it is trusted, so the test above tests something.
    if name == "net.pt" and save is pickled:
        pickle.loads((tmp_path / name).read_bytes())
        assert fired.exists()


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/b", ".hidden", "", "x\n", "A B"])
def test_names_that_become_paths_are_checked(tmp_path, name):
    path = tmp_path / "t.toml"
    path.write_text(small.CONFIG.replace('name = "small"', f"name = {name!r}".replace("'", '"')))
    with pytest.raises(UsageError, match="name"):
        sections.load(str(path))


@pytest.mark.parametrize("key", ["../../etc/passwd", "0" * 63, "0" * 65, "g" * 64, "0" * 63 + "/", "0" * 64 + "\n"])
def test_keys_that_become_paths_are_checked(tmp_path, key):
    store = Store(tmp_path)
    for method in (store.cell_file, store.records, store.training, store.adversarial, store.get):
        with pytest.raises(ValueError, match="is not a key"):
            method(key)


def test_a_configuration_runs_no_code(tmp_path):
    fired = tmp_path / "fired"
    code = f"__import__('os').mkdir('{fired}')"
    for line in (f'use = "{code}"', f'use = "jpeg"\nquality = "{code}"', f'use = "tpap"\nbeta = "{code}"'):
        path = tmp_path / "t.toml"
        path.write_text(small.CONFIG.replace('use = "tpap"\nbeta = "0.1"', line))
        assert small.main(["plan", str(path)]) == 2
    assert not fired.exists()


def test_a_files_signature_runs_no_code_when_it_is_read(tmp_path, capsys):
    fired = tmp_path / "fired"
    (tmp_path / "mine.py").write_text(
        "from bench.api import Target, Threat, attack\n\n@attack(norms=('linf',), passes='0 forwards')\n"
        f"def mine(target, x, y, threat, *, steps: int = __import__('os').mkdir('{fired}')):\n"
        "    '''Mine.'''\n    return x\n"
    )
    text = small.CONFIG + f'\n[[attacks]]\nuse = "{tmp_path}/mine.py:mine"\neps = "0.1"\n'
    assert small.main(["plan", small.write(tmp_path, text)]) == 2
    assert not fired.exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "caltech101"])
def test_a_download_of_another_sha256_is_not_unpacked(tmp_path, monkeypatch, name):
    unpacked = []
    monkeypatch.setattr(utils, "download_url", lambda url, root, file: _write(Path(root) / file, b"another"))
    monkeypatch.setattr(utils, "extract_archive", lambda *_, **__: unpacked.append(name))
    for dataset in ("CIFAR10", "CIFAR100", "SVHN", "Caltech101"):
        monkeypatch.setattr(datasets, dataset, lambda *_, **__: unpacked.append(name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for variable in ("CROSSFIRE_DATA", "CROSSFIRE_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UsageError, match="SHA-256 .* published is"):
        open_set(name, "test", folder=None)
    assert not unpacked
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def _write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_what_is_fetched_is_what_torchvision_unpacks():
    from bench.data.named import _PUBLISHED, NAMED

    assert {entry.torchvision for entry in NAMED.values()} - {None} == set(_PUBLISHED)
    for name in ("CIFAR10", "CIFAR100"):
        assert [url for url, _ in _PUBLISHED[name]] == [getattr(datasets, name).url]
    assert [url for url, _ in _PUBLISHED["SVHN"]] == [datasets.SVHN.split_list[s][0] for s in ("train", "test")]


def test_nothing_unpacks_archives_or_opens_connections():
    # Image sets are fetched by torchvision, on request, in bench/data/named.py alone.
    forbidden = {"tarfile", "urllib", "http", "requests", "ftplib", "gdown", "wget"}
    risky = {"ZipFile", "unpack_archive", "extractall", "download_url", "load_state_dict_from_url"}
    # Arrays of npz files, and what a checkpoint says of its records: their names become no paths.
    places = ("data/saved.py", "report/sets/npz.py", "models/checkpoints/formats.py")
    places += ("report/receipts/read.py", "report/receipts/write.py")
    readers = {ROOT / "bench" / place for place in places}
    for path in (*ROOT.glob("bench/**/*.py"), *ROOT.glob("attacks/*.py"), *ROOT.glob("defenses/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & forbidden, path
            here = risky - {"ZipFile"} if path in readers else risky
            assert not (isinstance(node, ast.Attribute) and node.attr in here), f"{path}:{node.lineno}"
            assert not (
                isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node) == "pickle.load"
            ), path


def test_nothing_loads_a_pickle_but_under_guard():
    for path in ROOT.glob("bench/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert words.get("weights_only") == "True", f"{path}:{node.lineno}"


def test_what_a_method_says_is_escaped_in_the_page(tmp_path):
    nasty = "<script>alert(1)</script>"
    (tmp_path / "mine.py").write_text(
        "from bench.api import Target, Threat, attack\n\n@attack(norms=('linf',), passes='0 forwards')\n"
        f"def mine(target, x, y, threat):\n    '''Mine.'''\n    raise RuntimeError('{nasty}')\n"
    )
    text = small.CONFIG + f'\n[[attacks]]\nuse = "{tmp_path}/mine.py:mine"\neps = "0.1"\n'
    assert small.run(tmp_path, "--only", "*fgsm-at/mine*", text=text) == 3
    assert nasty not in (tmp_path / "report" / "index.html").read_text()
    shutil.rmtree(tmp_path / "report")
