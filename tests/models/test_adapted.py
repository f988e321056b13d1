"""What surrounds a network: normalised images, one of several outputs, one logit; and what is no logits."""

import pytest
import torch

from bench.cli import main
from bench.config.sections import load
from bench.models.build import build, network_ref
from bench.models.layout import fast_layout
from bench.schedule.plan import make
from bench.store.working_store import Store
from bench.types import UsageError

CLASSES, SHAPE = 4, (3, 6, 5)
NETS = """
from collections import namedtuple
from dataclasses import dataclass
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=7):
        super().__init__()
        self.body, self.head = nn.LazyConv2d(width, 3), nn.LazyLinear(num_classes)

    def features(self, x):
        return self.body(x).relu().flatten(1)

    def forward(self, x):
        return self.outputs(self.head(self.features(x)), self.features(x))

    def outputs(self, logits, features):
        return logits

@dataclass
class Answer:
    features: torch.Tensor
    logits: torch.Tensor

Pair = namedtuple("Pair", ["features", "logits"])

class Two(Net):
    def outputs(self, logits, features):
        return features, logits

class Named(Net):
    def outputs(self, logits, features):
        return Pair(features, logits)

class Table(Net):
    def outputs(self, logits, features):
        return {"features": features, "logits": logits}

class Record(Net):
    def outputs(self, logits, features):
        return Answer(features, logits)

class Features(Net):
    def outputs(self, logits, features):
        return features

class Auxiliary(Net):
    def outputs(self, logits, features):
        return (logits, features) if self.training else logits

class One(Net):
    def __init__(self):
        super().__init__(1)

class Flat(One):
    def outputs(self, logits, features):
        return logits.squeeze(1)

class Counting(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("calls", torch.zeros(()))
    def outputs(self, logits, features):
        self.calls += 1
        return logits

def parallel(num_classes):
    return nn.DataParallel(Net(num_classes))

def compiled(num_classes):
    return torch.compile(Net(num_classes))

def scripted(num_classes):
    return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(90, num_classes)))

def doubles(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(90, num_classes)).double()

def takes_mean(num_classes, mean=(0.5, 0.5)):
    return Net(num_classes)

def takes_std(num_classes, std=0.5):
    return Net(num_classes)
"""


@pytest.fixture
def nets(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def made(path, name, classes=CLASSES, seed=0, **params):
    torch.manual_seed(seed)
    return build(network_ref(f"{path}:{name}", params), classes, SHAPE).eval()


def test_images_are_normalised_to_the_bit(nets):
    mean, std = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
    net = made(nets, "Net", **{"input.mean": "0.4914 0.4822 0.4465", "input.std": "0.247 0.2435 0.2616"})
    x = torch.rand(5, *SHAPE)
    normalised = torch.stack([(x[:, i] - mean[i]) / std[i] for i in range(3)], 1)
    torch.testing.assert_close(net(x), made(nets, "Net")(normalised), rtol=0, atol=0)
    one = made(nets, "Net", **{"input.mean": "0.5", "input.std": "0.25"})
    torch.testing.assert_close(one(x), made(nets, "Net")((x - 0.5) / 0.25), rtol=0, atol=0)
    assert {name.removeprefix("net.") for name in net.state_dict()} == made(nets, "Net").state_dict().keys()


def test_gradients_go_through_the_normalisation(nets):
    # Of a linear network the gradient is its weight, divided by the standard deviation.
    (nets.parent / "linear.py").write_text(
        "from torch import nn\ndef net(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(90, num_classes))\n"
    )
    net = made(nets.parent / "linear.py", "net", **{"input.mean": "0.1 0.2 0.3", "input.std": "0.5 0.25 0.125"})
    x = torch.rand(1, *SHAPE, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0, 2], x)
    torch.testing.assert_close(
        gradient[0], net.net[1].weight[2].view(SHAPE) / torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)
    )


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("Two", "1"),
        ("Two", "-1"),
        ("Named", "logits"),
        ("Named", "1"),
        ("Table", "logits"),
        ("Record", "logits"),
    ],
)
def test_the_named_output_is_the_logits(nets, name, output):
    net, x = made(nets, name, **{"output.field": output}), torch.rand(5, *SHAPE)
    expected = made(nets, "Net")(x)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(fast_layout(net, x).net(x), expected)


def test_outputs_beside_the_logits_that_only_training_has(nets):
    net, x = made(nets, "Auxiliary", **{"output.field": "0"}), torch.rand(5, *SHAPE)
    assert net(x).shape == net.train()(x).shape == (5, CLASSES)
    torch.testing.assert_close(net(x), net.eval()(x))
    with pytest.raises(UsageError, match="returns one tensor; leave out output = '0'"):
        made(nets, "Net", **{"output.field": "0"}).train()(x)


@pytest.mark.parametrize("name", ["One", "Flat"])
def test_two_logits_of_one_are_its_sigmoid(nets, name):
    net, x = made(nets, name, 2, **{"output.one_logit": True}), torch.rand(5, *SHAPE)
    logit = made(nets, "Net", 1).head(net.net.features(x))
    torch.testing.assert_close(net(x).softmax(1)[:, 1], logit.sigmoid()[:, 0])
    assert torch.equal(net(x).argmax(1), (logit[:, 0] > 0).long())
    assert fast_layout(net, x).net(x).shape == (5, 2)


@pytest.mark.parametrize("name", ["parallel", "compiled"])
def test_what_parallelises_or_compiles_a_network_is_taken_off(nets, name):
    assert type(made(nets, name)).__name__ == "Net"


REFUSED = {
    "a tuple": ("Two", {}, 4, "a tuple of 2, counted from 0; say which are the logits .*output = 0"),
    "a table": ("Table", {}, 4, "a dict with 'features', 'logits'; say which .*output = 'logits'"),
    "a dataclass": ("Record", {}, 4, "an? Answer with 'features', 'logits'; say which"),
    "no such key": ("Table", {"output.field": "logit"}, 4, "output = 'logit' is none of them"),
    "no such place": ("Two", {"output.field": "2"}, 4, "output = '2' is none of them"),
    "features": ("Features", {}, 4, r"tells 84 classes apart, the images have 4; .*nn.Linear\(84, 4\)"),
    "a logit, unsaid": ("One", {}, 2, "write one_logit = true"),
    "a flat logit, unsaid": ("Flat", {}, 2, "write one_logit = true"),
    "a logit, four classes": ("One", {"output.one_logit": True}, 4, "returns 1 for an image; the images have 4"),
    "two logits": ("Net", {"output.one_logit": True}, 2, "has one_logit = true and returns 2 for an image"),
    "too many means": ("Net", {"input.mean": "0.5 0.5", "input.std": "0.5"}, 4, "mean has 2 numbers, .* 3 channels"),
    "its own buffer": ("Counting", {}, 4, "changes its buffer calls in evaluation mode"),
    "TorchScript": ("scripted", {}, 4, "holds TorchScript; return the torch.nn.Module"),
    "doubles": ("doubles", {}, 4, r"weights torch.float64: convert .* net.float\(\)"),
    "its own mean": (
        "takes_mean",
        {"input.mean": "0.5", "input.std": "0.5"},
        4,
        "has a parameter of that name; rename",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_logits_is_one_line(nets, case):
    name, params, classes, message = REFUSED[case]
    with pytest.raises(UsageError, match=message) as caught:
        made(nets, name, classes, **params)
    assert "\n" not in str(caught.value)


TABLE = """
schema = 1
name = "t"
dataset = {{ name = "digits", n = 10, train_n = 20 }}
train = {{ epochs = 1, batch = 10 }}
defenses = [{{ use = "standard" }}]
attacks = [{{ use = "fgsm", eps = "0.1" }}]
models = [{}]
"""


def config(folder, *models):
    path = folder / "t.toml"
    path.write_text(TABLE.format(", ".join(models)))
    return path


WRONG = {
    "pixel values": ("mean = [125.3, 123, 114], std = 0.2", r"divide mean and std by 255 \(here '125.3/255'\)"),
    "pixel values of std": ("mean = 0.4, std = 63", r"std = 63 is above 1.*'63/255'"),
    "only one": ("mean = 0.5", "mean is given without std"),
    "zero": ("mean = 0.5, std = 0", "std = 0 is below 1e-06"),
    "negative": ("mean = -0.5, std = 0.5", "mean = -0.5 is below 0"),
    "no number": ('mean = "grey", std = 0.5', "is not a number"),
    "true": ("mean = true, std = 0.5", "True is not a number"),
    "nothing": ("mean = [], std = 0.5", "mean is one number, or a list"),
    "channels": ("mean = [0.5, 0.5], std = 0.5", "mean has 2 numbers, the images have 1 channel$"),
    "no output": ("output = []", "is neither the name of an output"),
    "a text": ('one_logit = "yes"', "should be a valid boolean"),
    "from within": ('"input.mean" = 0.5', "unknown key 'input.mean', which is a name inside"),
    "a typing error": ("men = 0.5", "unknown key 'men'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_key_is_one_line_before_any_work(nets, case):
    keys, message = WRONG[case]
    with pytest.raises(UsageError, match=message) as caught:
        make(load(str(config(nets.parent, f'{{ arch = "{nets}:Net", {keys} }}'))))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("t.toml")


def test_a_parameter_of_the_factory_is_not_shadowed(nets):
    path = config(nets.parent, f'{{ arch = "{nets}:takes_std", mean = 0.5, std = 0.5 }}')
    with pytest.raises(UsageError, match="std is a key of .*, and its factory has a parameter of that name"):
        make(load(str(path)))


def planned(nets, *keys):
    work = make(load(str(config(nets.parent, *(f'{{ arch = "{nets}:Net", {each} }}' for each in keys)))))
    return {planned.names.model.rpartition(":")[2]: planned.cell.model.network for planned in work.plan.cells}


def test_rows_are_told_apart_by_what_surrounds_the_network(nets):
    names = planned(nets, "width = 3", "width = 3, mean = 0.5, std = 0.25", "width = 3, mean = 0.5, std = 0.5")
    assert names.keys() == {
        "Net",
        "Net[input.mean=0.5,input.std=0.25]",
        "Net[input.mean=0.5,input.std=0.5]",
    }
    assert planned(nets, "width = 3")["Net"] == names["Net"]
    assert names["Net"].params == {"width": 3}
    # A list is one network, not a sweep; the same numbers, written otherwise, are the same network.
    (one,) = planned(nets, 'mean = ["127.5/255"], std = [0.25]').values()
    (same,) = planned(nets, "mean = 0.50, std = [0.25]").values()
    assert one == same


def test_what_replaces_a_card_shows_in_the_name(tmp_path):
    path = config(tmp_path, '{ arch = "torchvision:resnet18", mean = 0.5, std = 0.5 }')
    path.write_text(path.read_text().replace("n = 10,", "n = 10, channels = 3,"))
    (name,) = {planned.names.model for planned in make(load(str(path))).plan.cells}
    assert name == "torchvision:resnet18[input.mean=0.5,input.std=0.5]"
    net = build(network_ref("torchvision:resnet18", {"input.mean": "0.5", "input.std": "0.5"}), 5, (3, 32, 32)).eval()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net(x), net.net((x - 0.5) / 0.5), rtol=0, atol=0)


def test_a_network_that_returns_more_while_it_is_trained_needs_to_say_what(nets, capsys):
    path, store = config(nets.parent, f'{{ arch = "{nets}:Auxiliary" }}'), nets.parent / "store"
    assert main(["run", str(path), "--store", str(store), "--report", str(nets.parent / "report")]) == 3
    messages = {r.error.message for r in Store(store).results()}
    assert len(messages) == 1 and "while it is trained, the network returns a tuple of 2" in messages.pop()


def test_a_run_of_a_network_of_several_outputs(nets):
    path = config(nets.parent, f'{{ arch = "{nets}:Table", output = "logits", mean = 0.3, std = 0.4 }}')
    store = nets.parent / "store"
    assert main(["run", str(path), "--store", str(store), "--report", str(nets.parent / "report")]) == 0
    assert {r.status for r in Store(store).results()} == {"done"}
