"""Ensembles: the mean of several networks is one network, with the weights, costs and key of all of them."""

import pytest
import torch

from bench import registry
from bench.cli import main
from bench.config.sections import load
from bench.differences import methods_by_part
from bench.evaluation.cost import pass_flops
from bench.keys import comparison_key, seed_of
from bench.models import weights
from bench.models.build import build, ensemble_ref, network_ref
from bench.report.render.outside import named_by
from bench.schedule.plan import changed, make
from bench.store.working_store import Store
from bench.types import MethodRef, UsageError

CLASSES, SHAPE = 4, (1, 8, 8)
SMALL = network_ref("small-cnn", {"channels": 4, "hidden": 8})
WIDER = network_ref("small-cnn", {"channels": 6, "hidden": 8})
FILE = """
import torch
from torch import nn

class Sized(nn.Module):
    def __init__(self, num_classes, width=5):
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, num_classes)

    def forward(self, x):
        return {"logits": self.last(self.first(x.flatten(1)).relu())}
"""


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))


def made(combine, members=(SMALL, WIDER, SMALL), seed=0):
    torch.manual_seed(seed)
    return build(ensemble_ref(members, combine), CLASSES, SHAPE).eval()


def test_the_mean_of_logits(images):
    net = made("logits")
    each = [member(images) for member in net.members]
    torch.testing.assert_close(net(images), (each[0] + each[1] + each[2]) / 3)
    assert not torch.allclose(each[0], each[2]), "each member has weights of its own"


def test_the_mean_of_probabilities(images):
    net = made("probabilities")
    mean = torch.stack([member(images).double().softmax(1) for member in net.members]).mean(0)
    torch.testing.assert_close(net(images).softmax(1).double(), mean, rtol=1e-5, atol=1e-7)
    # log(1/3 (exp a + exp b + exp c)) of the members' log-probabilities.
    logs = [member(images) - torch.logsumexp(member(images), 1, keepdim=True) for member in net.members]
    torch.testing.assert_close(net(images), torch.logsumexp(torch.stack(logs), 0) - torch.log(torch.tensor(3.0)))
    y = torch.arange(6) % CLASSES
    entropy = -mean.gather(1, y[:, None]).log().mean()
    torch.testing.assert_close(torch.nn.functional.cross_entropy(net(images), y).double(), entropy, rtol=1e-5, atol=0)


def test_the_gradient_is_the_mean_of_gradients(images):
    net, x = made("logits"), images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    parts = [torch.autograd.grad(member(x)[:, 1].sum(), x)[0] for member in net.members]
    torch.testing.assert_close(gradient, torch.stack(parts).mean(0))


def test_costs_are_those_of_all_members():
    net = made("logits")
    each = [pass_flops(member, SHAPE) for member in net.members]
    assert pass_flops(net, SHAPE) == tuple(map(sum, zip(*each, strict=True)))


def test_one_file_holds_the_weights_of_all(tmp_path, images):
    net, other = made("logits"), made("logits", seed=1)
    torch.save(net.state_dict(), tmp_path / "all.pt")
    assert not torch.allclose(net(images), other(images))
    weights.load(tmp_path / "all.pt", other)
    torch.testing.assert_close(net(images), other(images), rtol=0, atol=0)


TABLE = """
schema = 1
name = "t"
dataset = {{ name = "digits", n = 10, train_n = 20 }}
train = {{ epochs = 1, batch = 10 }}
defenses = [{{ use = "standard" }}]
attacks = [{{ use = "fgsm", eps = "0.1" }}]
models = [{}]
"""


def planned(folder, *entries):
    (folder / "sized.py").write_text(FILE)
    path = folder / "t.toml"
    text = TABLE.format(", ".join(f"{{ {entry} }}" for entry in entries))
    path.write_text(text.replace("sized.py", str(folder / "sized.py")))
    return make(load(str(path)))


def test_names_tell_ensembles_apart(tmp_path):
    work = planned(
        tmp_path,
        'arch = ["small-cnn", "small-cnn"], channels = [3, 4]',
        'arch = ["small-cnn", { arch = "small-cnn", channels = 5 }], channels = 3',
        'arch = ["small-cnn", "small-cnn"], channels = 3, combine = "probabilities"',
        'arch = ["small-cnn", { arch = "sized.py:Sized", output = "logits", mean = 0.5, std = 0.5 }]',
    )
    names = {each.names.model: each.cell.model.network for each in work.plan.cells}
    twice = "2 x small-cnn[{}channels={},combine={}]"
    assert [*names][:4] == [
        twice.format("", 3, "logits"),
        twice.format("", 4, "logits"),
        twice.format("2.channels=5,", 3, "logits"),
        twice.format("", 3, "probabilities"),
    ]
    mixed = names[[*names][4]]
    assert [*names][4].startswith("small-cnn + ") and [*names][4].endswith("[2.input.mean=0.5,2.input.std=0.5]")
    assert mixed.members[1].params == {
        "width": 5,
        "input.mean": "0.5",
        "input.std": "0.5",
        "output.field": "logits",
    }
    assert [member.params["channels"] for member in names[[*names][2]].members] == [3, 5]


def test_a_member_is_part_of_the_key_with_its_code(tmp_path, monkeypatch):
    entry = 'arch = ["small-cnn", { arch = "sized.py:Sized", output = "logits" }]'
    before = planned(tmp_path, entry).plan.cells[1]
    (tmp_path / "sized.py").write_text(FILE + "CHANGED = 1\n")
    file = next(member for member in before.cell.model.network.members if ":" in member.name)
    # In this process the sources are those that were hashed; another one reads them again.
    assert changed(before.cell) is None
    monkeypatch.setattr(registry, "_entry_of_ref", {})
    assert changed(before.cell) == file
    # Whatever someone calls it in a result.
    assert named_by(before.cell.model.network.model_copy(update={"name": "harmless"})) == file.name
    text = TABLE.format(f"{{ {entry} }}").replace("sized.py", str(tmp_path / "sized.py"))
    (tmp_path / "t.toml").write_text(text)
    after = make(load(str(tmp_path / "t.toml"))).plan.cells[1]
    assert before.key != after.key
    assert comparison_key(before.cell) == comparison_key(after.cell) and seed_of(before.cell) == seed_of(after.cell)
    network = methods_by_part(after.cell)["network"]
    assert network.settings["2.network"] == file.name and network.settings["2.width"] == 5


WRONG = {
    "one": ('arch = ["small-cnn"]', "an ensemble has 2 to 100"),
    "none": ("arch = []", "an ensemble has 2 to 100"),
    "an ensemble in one": (
        'arch = ["small-cnn", { arch = ["small-cnn", "small-cnn"] }]',
        r"arch\[1\] is one network with one value",
    ),
    "a sweep": (
        'arch = ["small-cnn", { arch = "small-cnn", channels = [3, 4] }]',
        r"arch\[1\] is one network with one",
    ),
    "a number": ('arch = ["small-cnn", 3]', r"arch\[1\] is the name of a network or a table"),
    "no network": ("arch = 3", "models.0.arch: 3 is neither the name of a network"),
    "no arch": ('arch = ["small-cnn", { channels = 3 }]', r"arch\[1\]: arch: Field required"),
    "unknown": ('arch = ["small-cnn", "smal-cnn"]', "smal-cnn: unknown network 'smal-cnn'; did you mean 'small-cnn'"),
    "a parameter": ('arch = ["small-cnn", "small-cnn"], chanels = 3', "did you mean 'channels'"),
    "another mean": ('arch = ["small-cnn", "small-cnn"], combine = "votes"', "combine: input should be 'logits' or"),
    "no ensemble": ('arch = "small-cnn", combine = "logits"', "combine belongs to an ensemble"),
    "means": ('arch = ["small-cnn", { arch = "small-cnn", mean = 0.5 }]', r"arch\[1\]: mean is given without std"),
    "channels": ('arch = ["small-cnn", "small-cnn"], mean = [0, 0], std = 1', "mean has 2 numbers, .* have 1 channel"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_ensemble_is_one_line(tmp_path, case):
    entry, message = WRONG[case]
    with pytest.raises(UsageError, match=message) as caught:
        planned(tmp_path, entry)
    assert "\n" not in str(caught.value)


def test_a_reference_from_elsewhere_is_flat():
    inner = ensemble_ref((SMALL, WIDER), "logits")
    with pytest.raises(ValueError, match="no ensemble"):
        MethodRef.model_validate(
            ensemble_ref((SMALL, WIDER), "logits").model_dump() | {"members": [inner.model_dump()]}
        )


def test_a_run_of_an_ensemble_that_is_trained_as_one(tmp_path):
    planned(tmp_path, 'arch = ["small-cnn", "small-cnn"], combine = "probabilities"')
    store = tmp_path / "store"
    arguments = ["run", str(tmp_path / "t.toml"), "--store", str(store), "--report", str(tmp_path / "report")]
    assert main(arguments) == 0
    results = list(Store(store).results())
    assert {(r.status, r.cell.model.network.name) for r in results} == {("done", "2 x small-cnn")}
    assert {len(r.cell.model.network.members) for r in results} == {2}
