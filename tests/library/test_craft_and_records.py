"""Adversarial images from one call, and one row for each image."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import bench
from bench.data import open_set
from bench.keys import attack_key
from bench.registry import entries
from bench.store.working_store import Store
from bench.types import MethodError, UsageError


@pytest.fixture(scope="module")
def digits():
    test = open_set("digits", "test", folder=None)
    return torch.tensor(np.array(test.images[:150])).float() / 255, torch.tensor(np.array(test.labels[:150]))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.fixture(scope="module")
def store(net, digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    step = ("bit-depth", {"bits": 3})
    attacks = [("pgd", {"steps": 3}), "mi-fgsm"]
    bench.evaluate(step, *digits, base=net, attacks=attacks, eps="8/255", store=folder, progress=False)
    return Store(folder)


@pytest.mark.parametrize("access", ["static", "adaptive"])
def test_images_are_to_the_bit_those_that_were_evaluated(net, digits, store, access):
    x, y = digits
    step = ("bit-depth", {"bits": 3})
    crafted = bench.attack(step, x, y, "pgd", base=net, eps="8/255", steps=3, access=access)
    (result,) = (r for r in store.results() if r.names.attack == "pgd" and r.cell.access == access)
    folder = store.adversarial(attack_key(result.cell.attack))
    # 150 images are two chunks.
    kept = torch.cat([load_file(path)["images"] for path in sorted(folder.iterdir())])
    assert torch.equal(crafted, kept)
    assert crafted.shape == x.shape and crafted.dtype == x.dtype and not torch.equal(crafted, x)


@pytest.mark.parametrize("kind", ["float64 array, channels last", "tensor off the grid"])
def test_any_floats_are_attacked_as_they_are_and_stay_in_the_ball(net, digits, kind):
    noise = torch.rand(digits[0].shape, generator=torch.Generator().manual_seed(0))
    x = (digits[0] + 0.003 * noise).clamp(0, 1)[:20]
    if kind == "tensor off the grid":
        crafted = bench.attack(net, x, digits[1][:20], "pgd", eps="4/255", steps=10)
        first, same = x, crafted
    else:
        array = x.double().permute(0, 2, 3, 1).numpy()
        given = bench.attack(net, array, digits[1][:20].tolist(), "pgd", eps="4/255", steps=10)
        assert isinstance(given, np.ndarray) and given.dtype == np.float64 and given.shape == array.shape
        first, same = x, torch.tensor(given).permute(0, 3, 1, 2).float()
    moved = (same - first).abs()
    assert float(moved.max()) <= 4 / 255 + 1e-6 and float(moved.max()) > 3.9 / 255
    assert float(same.min()) >= 0 and float(same.max()) <= 1
    margin = net(first).gather(1, digits[1][:20, None]) - net(same).gather(1, digits[1][:20, None])
    assert float(margin.detach().mean()) > 0


def test_an_attack_that_leaves_the_ball_raises_and_wrong_arguments_are_one_line(net, digits):
    x, y = digits[0][:4], digits[1][:4]

    def leaves(target, x, y, threat):
        return 1 - x

    with pytest.raises(MethodError):
        bench.attack(net, x, y, leaves, eps="8/255")
    wrong = {
        "give a tensor or array of float32": lambda: bench.attack(net, (x * 255).byte(), y),
        "give no lists": lambda: bench.attack(net, x, y, "pgd", steps=[3, 5]),
        "unknown key 'step'": lambda: bench.attack(net, x, y, "pgd", step=3),
        "'static' or 'adaptive'": lambda: bench.attack(net, x, y, access="transfer"),
    }
    for words, call in wrong.items():
        with pytest.raises(UsageError, match="(?s).*") as error:
            call()
        assert words in str(error.value) and "\n" not in str(error.value)


def test_records_are_one_row_for_each_image_and_add_up_to_the_results(net, digits, store):
    records, results = bench.load_records(store.root), bench.load_results(store.root).set_index("key")
    assert len(records) == 150 * len(results)
    by_cell = records.groupby("key")
    attacked = results[results["attack"] != "clean"]
    means = by_cell["robust"].mean()[attacked.index]
    np.testing.assert_allclose(means, attacked["robust_accuracy"])
    np.testing.assert_allclose(by_cell["linf"].mean()[attacked.index], attacked["mean_linf"], rtol=1e-6)
    right = (records["adversarial_prediction"] == records["label"]).groupby(records["key"]).mean()
    np.testing.assert_allclose(right[attacked.index], attacked["accuracy_under_attack"])
    clean = bench.load_records(store.root, cell="*/clean/white-box")
    assert list(clean["index"]) == list(range(150)) and list(clean["label"]) == digits[1].tolist()
    assert list(clean["clean_prediction"]) == net(digits[0]).argmax(1).tolist()
    key = attacked.index[0]
    one = bench.load_records(store.root, cell=key[:16])
    assert set(one["key"]) == {key} and {"eps", "norm", "access", "forwards", "backwards", "seconds", "l2"} <= set(one)


def test_records_that_are_not_there_or_were_altered_are_one_line(store, tmp_path):
    with pytest.raises(UsageError, match="is not there"):
        bench.load_records(tmp_path / "none")
    with pytest.raises(UsageError, match="unknown cell"):
        bench.load_records(store.root, cell="nothing")
    shutil.copytree(store.root, tmp_path / "copy")
    path = next((tmp_path / "copy" / "records").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match="was altered"):
        bench.load_records(tmp_path / "copy", cell=path.stem)
    path.unlink()
    with pytest.raises(UsageError, match="is not there"):
        bench.load_records(tmp_path / "copy", cell=path.stem)


def test_a_diffusion_purifier_takes_its_score_from_a_file(net, digits, tmp_path):
    torch.manual_seed(2)
    score = entries("score-network")["unet"].load()(in_channels=1, channels=4)
    save_file(score.state_dict(), tmp_path / "score.safetensors")
    unet = {"arch": "unet", "channels": 4}
    purifier = "diffusion", {"steps": 2, "score": f"weights:{tmp_path / 'score.safetensors'}", "score_network": unet}
    x, y = digits[0][:6], digits[1][:6]
    named = {"base": net, "eps": "8/255", "progress": False}
    folder = tmp_path / "store"
    bench.evaluate(purifier, x, y, attacks=[("pgd", {"steps": 2, "eot": 2})], store=folder, **named)
    cell = next(r.cell for r in Store(folder).results() if r.names.access == "adaptive" and r.cell.attack)
    kept = load_file(next(Store(folder).adversarial(attack_key(cell.attack)).glob("*.safetensors")))["images"]
    assert torch.equal(bench.attack(purifier, x, y, "pgd", steps=2, eot=2, **named), kept)
    with pytest.raises(UsageError, match="'denoiser' is trained on images, and these were handed over without any"):
        bench.attack("diffusion", x, y, "pgd", steps=2, **named)


class Detached(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).detach()


def own(target, x, y, threat):
    """Asks for the gradient of something that has none, by itself."""
    images = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad((target(images) * 0).detach().sum(), images)
    return x + grad


@pytest.mark.parametrize("use", ["pgd", "cascade", "autoattack", "torchattacks:PGD", "advlib:apgd"])
@pytest.mark.parametrize("most", [None, 40])
def test_a_network_without_a_gradient_is_one_line_that_says_what_to_do(net, digits, use, most):
    package = {"torchattacks": "torchattacks", "advlib": "adv_lib"}.get(use.partition(":")[0], "pyautoattack")
    pytest.importorskip(package)
    x = digits[0][:6]
    y = net(x).argmax(1)
    limit = {} if most is None else {"max_passes": most}
    with pytest.raises(MethodError, match="no gradient reaches the images: .* whose surrogate has .*square, rays"):
        bench.attack(Detached(net), x, y, use, eps="8/255", device="cpu", **limit)
    bench.attack(Detached(net), x, y, "square", queries=5, eps="8/255", device="cpu", **limit)


def test_an_attack_that_loses_the_gradient_itself_keeps_its_own_error(net, digits):
    x, y = digits[0][:6], digits[1][:6]
    with pytest.raises(Exception, match="does not require grad") as error:
        bench.attack(net, x, y, own, eps="8/255", device="cpu")
    assert "no gradient reaches" not in str(error.value)


@pytest.mark.parametrize("use", ["cascade", "pgd", "autoattack"])
def test_images_of_one_class_are_one_line_as_they_are_in_a_table(digits, use):
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    line = f"{use} needs 2 classes or more, and the images have 1"
    with pytest.raises(UsageError, match=line):
        bench.attack(one, digits[0][:5], torch.zeros(5, dtype=torch.int64), use, eps="8/255", device="cpu")
