"""Network factories as people write them: each gets the arguments in its signature, or one line refuses it."""

import pytest
import torch

from bench.cli import main
from bench.models.build import build, network_ref
from bench.store.working_store import Store
from bench.types import UsageError

CLASSES, SHAPE = 7, (3, 8, 8)

#: The start of every file below: a network whose attributes show its width and its number of classes.
NET = """
import functools
from functools import partial
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, width, channels=3):
        super().__init__()
        self.channels, self.first, self.last = channels, nn.LazyLinear(width), nn.Linear(width, classes)

    def forward(self, x):
        return self.last(self.first(x[:, :self.channels].flatten(1)))

def plain(f):
    def inner(*args, **kwargs):
        return f(*args, **kwargs)
    return inner

def wrapped(f):
    return functools.wraps(f)(plain(f))
"""


def write(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(NET + text)
    return f"{path}:net"


def build_net(folder, text, params=None, shape=SHAPE):
    name = f"mine_{len(list(folder.iterdir()))}.py"
    return build(network_ref(write(folder, text, name), params or {}), CLASSES, shape)


#: A factory, the parameters in the configuration, and the width that its signature gives for them.
RIGHT = {
    "width first": ("def net(width=16, num_classes=10): return Net(num_classes, width)", {}, 16),
    "width first, given": ("def net(width=16, num_classes=10): return Net(num_classes, width)", {"width": 5}, 5),
    "classes second": ("def net(width: int = 16, *, num_classes): return Net(num_classes, width)", {"width": 5}, 5),
    "no classes": ("def net(width=16): return Net(7, width)", {}, 16),
    "no classes, given": ("def net(width=16): return Net(7, width)", {"width": 9}, 9),
    "nothing at all": ("def net(): return Net(7, 3)", {}, 3),
    "positional only": ("def net(num_classes, /): return Net(num_classes, 4)", {}, 4),
    "positional only, second": (
        "def net(width=6, num_classes=10, /): return Net(num_classes, width)",
        {},
        6,
    ),
    "positional only, given": ("def net(num_classes, width=6, /): return Net(num_classes, width)", {"width": 3}, 3),
    "keywords": ("def net(**kwargs): return Net(kwargs['num_classes'], kwargs.get('width', 4))", {"width": 8}, 8),
    "keywords and a name": ("def net(width=4, **others): return Net(others['num_classes'], width)", {"width": 8}, 8),
    "lambda": ("net = lambda num_classes, width=4: Net(num_classes, width)", {"width": 8}, 8),
    "partial": ("def f(num_classes, width=4): return Net(num_classes, width)\nnet = partial(f, width=6)", {}, 6),
    "partial, given": (
        "def f(num_classes, width=4): return Net(num_classes, width)\nnet = partial(f, width=6)",
        {"width": 3},
        3,
    ),
    "partial of itself": (
        "def net(num_classes, width=4): return Net(num_classes, width)\nnet = partial(net, width=6)",
        {},
        6,
    ),
    "partial by position": ("net = partial(Net, 7)", {"width": 3}, 3),
    "class": (
        "class net(Net):\n    def __init__(self, width=5, num_classes=10): super().__init__(num_classes, width)",
        {},
        5,
    ),
    "class, given": (
        "class net(Net):\n    def __init__(self, num_classes, *, width=5): super().__init__(num_classes, width)",
        {"width": 2},
        2,
    ),
    "inherited": (
        "class Base(Net):\n    def __init__(self, num_classes, width=5): super().__init__(num_classes, width)\n"
        "class net(Base): pass",
        {"width": 2},
        2,
    ),
    "forwards all": (
        "class Base(Net):\n    def __init__(self, num_classes=10, width=5): super().__init__(num_classes, width)\n"
        "class net(Base):\n    def __init__(self, **kwargs): super().__init__(**kwargs)",
        {"width": 2},
        2,
    ),
    "decorated": ("@wrapped\ndef net(width=6, num_classes=10): return Net(num_classes, width)", {}, 6),
    "decorated, given": ("@wrapped\ndef net(width=6, num_classes=10): return Net(num_classes, width)", {"width": 2}, 2),
    "decorated without a trace": ("@plain\ndef net(width=6, num_classes=10): return Net(num_classes, width)", {}, 6),
    "a decorator's own default": (
        "@(lambda f: partial(f, width=11))\ndef net(num_classes, width=6): return Net(num_classes, width)",
        {},
        11,
    ),
    "an instance that is called": (
        "class Maker:\n    def __call__(self, width=4, num_classes=10): return Net(num_classes, width)\nnet = Maker()",
        {},
        4,
    ),
    "a default that only Python knows": (
        "WIDTH = 12\ndef net(num_classes, width=WIDTH): return Net(num_classes, width)",
        {},
        12,
    ),
    "such a default, given": (
        "WIDTH = 12\ndef net(num_classes, width=WIDTH): return Net(num_classes, width)",
        {"width": 2},
        2,
    ),
    "a default that is no scalar": (
        "def net(num_classes, width=5, act=nn.ReLU, sizes=(1, 2)): return Net(num_classes, width)",
        {},
        5,
    ),
    "annotations of other files": (
        "from typing import Optional\n"
        "def net(num_classes: int, width: Optional[int] = None, norm: 'nn.Module' = None): "
        "return Net(num_classes, width or 13)",
        {"width": 4},
        4,
    ),
    "an annotation that its default denies": (
        "def net(num_classes, width: int = None): return Net(num_classes, width or 13)",
        {},
        13,
    ),
    "needed": ("def net(num_classes, width): return Net(num_classes, width)", {"width": 3}, 3),
    "defined again": (
        "def net(num_classes, width=3): return Net(num_classes, width)\n"
        "def net(num_classes, width=4): return Net(num_classes, width)",
        {},
        4,
    ),
    "under if": ("if True:\n    def net(width=3, num_classes=2): return Net(num_classes, width)", {}, 3),
    "imported": ("from torchvision.models import mobilenet_v3_small as net", {}, None),
    "a name of pydantic's": (
        "def net(num_classes, copy=True, json=3, _w=2): return Net(num_classes, json)",
        {"json": 5},
        5,
    ),
    "registered": (
        "from bench.api import Count, network\n"
        "@network()\ndef net(num_classes, *, in_channels=1, width: Count = 4): return Net(num_classes, width)",
        {"width": 6},
        6,
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_factory_gets_what_its_signature_says(tmp_path, case):
    text, params, width = RIGHT[case]
    net = build_net(tmp_path, text, params)
    assert net.eval()(torch.rand(2, *SHAPE)).shape == (2, CLASSES)
    if width is not None:
        assert (net.first.out_features, net.last.out_features) == (width, CLASSES)


def test_channels_and_size_go_where_they_are_named(tmp_path):
    text = "def net(image_size, in_channels=3, num_classes=10): return Net(num_classes, image_size[1], in_channels)"
    assert build_net(tmp_path, text, shape=(1, 6, 9)).first.out_features == 9
    assert build_net(tmp_path, text, shape=(1, 6, 9)).channels == 1
    # A side, where that is what the signature says.
    side = "def net(num_classes, image_size: int): return Net(num_classes, image_size)"
    assert build_net(tmp_path, side).first.out_features == 8
    side = "def net(num_classes, image_size=224): return Net(num_classes, image_size)"
    assert build_net(tmp_path, side).first.out_features == 8
    # Nobody knows what any name would do with them; a configuration may.
    free = "def net(**all): return Net(all.pop('num_classes'), 4, **{'channels': all.pop('in_channels', 2), **all})"
    assert build_net(tmp_path, free, shape=(3, 8, 8)).channels == 2
    assert build_net(tmp_path, free, {"in_channels": 1}, shape=(1, 8, 8)).channels == 1


#: A factory, the parameters in the configuration, and the start of the error when the plan is made.
REFUSED_AT_ONCE = {
    "a wrong name": ("def net(width=3): ...", {"widht": 3}, "network net: unknown key 'widht'; did you mean 'width'?"),
    "what the images have": ("def net(num_classes=10): ...", {"num_classes": 3}, "num_classes is what the images have"),
    "missing": (
        "def net(classes, width=3): ...",
        {},
        "its factory needs classes: give that in the configuration, or call",
    ),
    "not a number": (
        "def net(num_classes, width: int = 3): ...",
        {"width": "wide"},
        "network net: width: input should be",
    ),
    "a table": ("def net(num_classes, width=3): ...", {"width": {"a": 1}}, "width should be a number, a text, true or"),
    "async": ("async def net(num_classes): ...", {}, "network factory net is an async function; write it with def"),
    "absent": ("def nett(num_classes): ...", {}, "mine.py has no function net"),
}


@pytest.mark.parametrize("case", REFUSED_AT_ONCE)
def test_what_can_be_read_is_refused_before_the_file_runs(tmp_path, case):
    text, params, message = REFUSED_AT_ONCE[case]
    with pytest.raises(UsageError) as caught:
        network_ref(write(tmp_path, text + "\nraise RuntimeError('the file was run')"), params)
    assert message in str(caught.value) and "\n" not in str(caught.value)


#: A factory and the error when it is called.
REFUSED = {
    "it raises": ("def net(num_classes): raise KeyError('x\\ny')", "cannot be built: KeyError"),
    "weights of another shape": (
        "def net(num_classes):\n    net = Net(num_classes, 3)\n"
        "    net.load_state_dict(Net(num_classes + 1, 3).state_dict())\n    return net",
        "cannot be built: RuntimeError: Error(s) in loading state_dict for Net: size mismatch for",
    ),
    "it leaves": ("import sys\ndef net(num_classes): sys.exit(0)", "cannot be built: SystemExit: 0"),
    "no network": ("def net(num_classes): return 'a network'", "returned str, not a torch.nn.Module"),
    "nothing": ("def net(num_classes): Net(num_classes, 3)", "returned NoneType, not a torch.nn.Module"),
    "a class": ("def net(num_classes): return Net", "returned the class Net, not a torch.nn.Module"),
    "two": ("def net(num_classes): return Net(num_classes, 3), 1", "returned tuple, not"),
    "a generator": ("def net(num_classes): yield Net(num_classes, 3)", "returned generator, not"),
    "a coroutine": ("async def f(num_classes): return 1\nnet = partial(f)", "returned coroutine, not"),
    "an unknown package": (
        "import no_such_package\ndef net(num_classes): ...",
        "mine.py cannot be imported: ModuleNotFound",
    ),
    "an unknown package inside": (
        "def net(num_classes): import no_such_package",
        "cannot be built: ModuleNotFoundError",
    ),
    "an error at import": ("def net(num_classes): ...\n1 / 0", "mine.py cannot be imported: ZeroDivisionError"),
    "the end at import": ("def net(num_classes): ...\nraise SystemExit", "mine.py cannot be imported: SystemExit"),
    "gone": ("def net(num_classes): ...\ndel net", "defines no net"),
    "a number": ("net = 3", "is a int, not a function"),
    "a network": ("net = Net(7, 3)", "is a network already"),
    "only places": (
        "@(lambda f: lambda *args: f(*args))\ndef net(num_classes): return Net(num_classes, 3)",
        "TypeError",
    ),
    "missing in a partial": ("def f(classes, width): ...\nnet = partial(f, width=3)", "its factory needs classes"),
    "other classes": ("def net(width=3): return Net(4, width)", "tells 4 classes apart, the images have 7"),
    "one row for all": ("def net(num_classes): return nn.Conv2d(3, num_classes, 3)", "returns no logits of shape"),
    "rows for places": (
        "class net(nn.Module):\n    def __init__(self, num_classes):\n        super().__init__()\n"
        "        self.c = nn.Conv2d(3, num_classes, 3)\n"
        "    def forward(self, x): return self.c(x).permute(0, 2, 3, 1).reshape(-1, self.c.out_channels)",
        "returns no logits of shape",
    ),
    "no __init__": ("class net(nn.Module):\n    def forward(self, x): return x.flatten(1)", "tells 192 classes apart"),
    "doubles": ("def net(num_classes): return Net(num_classes, 3).double()", "cannot take images of 3x8x8"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_called_is_one_line(tmp_path, case):
    text, message = REFUSED[case]
    ref = network_ref(write(tmp_path, text), {})
    with pytest.raises(UsageError) as caught:
        build(ref, CLASSES, SHAPE)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "@functools.cache\ndef net(num_classes): return Net(num_classes, 3)",
        "KEPT = Net(7, 3)\ndef net(): return KEPT",
        "KEPT = nn.Linear(192, 4)\ndef net(): return nn.Sequential(nn.Flatten(), KEPT, nn.Linear(4, 7))",
    ],
)
def test_the_weights_of_another_training_are_not_handed_on(tmp_path, text):
    ref = network_ref(write(tmp_path, text), {})
    first = build(ref, CLASSES, SHAPE)
    with pytest.raises(UsageError, match="returned weights that it has returned before"):
        build(ref, CLASSES, SHAPE)
    assert first is not None


def test_new_weights_are_those_of_the_seed(tmp_path):
    ref = network_ref(write(tmp_path, "def net(num_classes): return Net(num_classes, 3)"), {})

    def first_weights(seed):
        torch.manual_seed(seed)
        return next(build(ref, CLASSES, SHAPE).parameters())

    weights = first_weights(0)
    assert not torch.equal(weights, first_weights(1))
    assert torch.equal(weights, first_weights(0))


RUN = """
schema = 1
name = "t"
dataset = {{ name = "digits", n = 10, train_n = 20 }}
models = [{{ arch = "{good}", width = 5 }}, {{ arch = "{bad}" }}]
train = {{ epochs = 1, batch = 10 }}
defenses = [{{ use = "standard" }}]
attacks = [{{ use = "fgsm", eps = "0.1" }}]
"""


def test_one_that_fails_fails_its_own_rows(tmp_path, capsys):
    good = write(tmp_path, "def net(width=3, num_classes=2): return Net(num_classes, width, 1)")
    bad = tmp_path / "bad.py"
    bad.write_text("def net(num_classes): raise ValueError('no such size')\n")
    (tmp_path / "t.toml").write_text(RUN.format(good=good, bad=f"{bad}:net"))
    arguments = [str(tmp_path / "t.toml"), "--store", str(tmp_path / "store")]
    assert main(["plan", *arguments]) == 3
    assert main(["run", *arguments, "--report", str(tmp_path / "report")]) == 3
    results = Store(tmp_path / "store").results()
    outcomes = {
        (r.status, r.error and r.error.message.partition("built: ")[2], r.cell.model.network.params.get("width"))
        for r in results
    }
    assert outcomes == {("done", None, 5), ("failed", "ValueError: no such size", None)}
    assert "Traceback" not in "".join(capsys.readouterr())
