import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.api import MethodError
from bench.draws import Draws
from bench.evaluation.target import Meter, NetworkTarget, Truth, auto_batch, out_of_memory, parts
from bench.process.isolation import frozen

N, CLASSES = 10, 3


class Net(nn.Module):
    """A small smooth network that records the size of every batch and can run out of memory."""

    def __init__(self, limit=None, classes=CLASSES):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 16, classes)
        self.limit = limit
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        if self.limit is not None and len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.head(torch.tanh(self.norm(self.conv(x))).flatten(1))


def images(n=N):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 6, 6, generator=generator), torch.randint(CLASSES, (n,), generator=generator)


def loss(logits, y):
    return F.cross_entropy(logits, y, reduction="none")


def target_of(net, *, batch=64, n=N, **options):
    net.eval().requires_grad_(False)
    meter = Meter(net, n)
    return NetworkTarget(net, meter, torch.arange(n), seed=5, num_classes=CLASSES, batch=batch, **options), meter


def test_the_gradient_is_autograds_whatever_the_batch():
    x, y = images()
    net = Net()
    leaf = x.clone().requires_grad_()
    logits = net.eval()(leaf)
    values = loss(logits, y)
    (wanted,) = torch.autograd.grad(values.sum(), leaf)
    for batch in (1, 3, 5, 10, 64):
        outputs = target_of(net, batch=batch)[0].gradient(x, loss, y)
        torch.testing.assert_close(outputs.grad, wanted)
        torch.testing.assert_close(outputs.logits, logits.detach())
        torch.testing.assert_close(outputs.loss, values.detach())
        assert not any(part.requires_grad for part in outputs)
    assert not x.requires_grad and x.grad is None


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_every_pass_is_counted_for_its_image(batch):
    x, y = images()
    target, meter = target_of(Net(), batch=batch)
    with meter:
        target(x)
        target.gradient(x, loss, y)
        assert (meter.forwards, meter.backwards) == (2 * N, N)
        assert meter.forwards_of.tolist() == [2] * N and meter.backwards_of.tolist() == [1] * N
        chosen = torch.tensor([7, 2])
        target.rows(chosen).gradient(x[chosen], loss, y[chosen])
        mask = torch.zeros(2, dtype=torch.bool)
        mask[1] = True
        target.rows(chosen).rows(mask)(x[chosen][mask])
    wanted = [2] * N
    wanted[7], wanted[2] = 3, 4
    assert meter.forwards_of.tolist() == wanted
    assert meter.backwards_of.sum() == meter.backwards == N + 2
    target(x)
    assert meter.forwards == 2 * N + 3, "a closed meter counts no more"


def test_a_graph_that_the_attack_keeps_is_counted_when_it_is_walked():
    x, _ = images()
    target, meter = target_of(Net())
    leaf = x.clone().requires_grad_()
    out = target(leaf)
    assert (meter.forwards, meter.backwards) == (N, 0)
    out.sum().backward()
    assert meter.backwards == N and leaf.grad is not None
    target.module(x[:4])
    assert meter.forwards == N + 4 and meter.forwards_of.sum() == N


def test_without_gradients_no_graph_is_made():
    x, _ = images()
    target, _ = target_of(Net())
    assert not target(x).requires_grad
    with torch.no_grad():
        assert not target(x.clone().requires_grad_()).requires_grad


def test_no_images_are_no_trouble():
    x, y = images()
    target, meter = target_of(Net())
    none = target.rows(torch.empty(0, dtype=torch.int64))
    assert none(x[:0]).shape == (0, CLASSES)
    assert none.gradient(x[:0], loss, y[:0]).grad.shape == (0, 1, 6, 6)
    assert meter.forwards == meter.backwards == 0


def test_memory_that_runs_out_halves_the_batch_for_good():
    x, y = images()
    net = Net(limit=3)
    target, meter = target_of(net, batch=8)
    wanted = target_of(Net())[0].gradient(x, loss, y)
    torch.testing.assert_close(target.gradient(x, loss, y).grad, wanted.grad)
    assert net.seen == [5, 2, 2, 2, 2, 2] and target.batch == 2
    assert meter.forwards_of.tolist() == [1] * N, "a pass that failed is no pass"
    net.seen.clear()
    target.rows(torch.arange(4))(x[:4])
    assert net.seen == [2, 2]


def test_memory_that_runs_out_at_one_image_is_an_error():
    x, _ = images()
    with pytest.raises(torch.OutOfMemoryError):
        target_of(Net(limit=0))[0](x)


def test_another_error_is_passed_on_at_once():
    x, _ = images()
    net = Net()
    net.forward = lambda _: (_ for _ in ()).throw(RuntimeError("a bug"))
    target, _ = target_of(net)
    with pytest.raises(RuntimeError, match="a bug"):
        target(x)
    assert target.batch == 64


def test_what_counts_as_out_of_memory():
    assert out_of_memory(torch.OutOfMemoryError("x"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("CUDA error: device-side assert"))


@pytest.mark.parametrize(
    "net", [Net(classes=4), nn.Sequential(Net(), nn.Unflatten(1, (CLASSES, 1)))], ids=["too many classes", "too deep"]
)
def test_logits_of_a_wrong_shape_are_the_methods_fault(net):
    x, y = images()
    target, _ = target_of(net)
    with pytest.raises(MethodError, match=r"the network returned \(10, .*\), not \(10, 3\)"):
        target(x)
    with pytest.raises(MethodError, match="the network returned"):
        target.gradient(x, loss, y)


def test_a_function_that_lets_no_gradient_through_is_said_to():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x.detach())

    x, y = images()
    with pytest.raises(MethodError, match="no gradient reaches the images"):
        target_of(Detached())[0].gradient(x, loss, y)


def test_a_random_functions_gradient_is_the_mean_over_draws():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.draw = Net(), 0

        def forward(self, x):
            self.draw += 1
            return self.net(x) * self.draw

    x, y = images()
    alone, _ = target_of(Noisy())
    singles = [alone.gradient(x, loss, y) for _ in range(3)]
    target, meter = target_of(Noisy(), draws_averaged=3, draws=Draws())
    outputs = target.gradient(x, loss, y)
    for part in ("grad", "logits", "loss"):
        wanted = sum(getattr(single, part) for single in singles) / 3
        torch.testing.assert_close(getattr(outputs, part), wanted)
    assert meter.forwards_of.tolist() == meter.backwards_of.tolist() == [3] * N


@pytest.mark.parametrize("batch", [4, 5, 64])
def test_a_random_functions_draws_do_not_depend_on_the_batch(batch):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.draws = Net(), Draws()

        def forward(self, x):
            noise = self.draws.normal(x) * self.draws.uniform(x[:, :, :1, :1])
            return self.net(x + noise)

    def outputs(batch):
        net = Noisy()
        net.draws.begin(9)
        target, _ = target_of(net, batch=batch, draws=net.draws, draws_averaged=2)
        some = torch.tensor([8, 1, 0, 5, 9])
        first = target.gradient(x, loss, y)
        return [*first, target(x), *target.rows(some).gradient(x[some], loss, y[some]), target.module(x[:2])]

    x, y = images()
    for one, other in zip(outputs(N), outputs(batch), strict=True):
        torch.testing.assert_close(one, other)


def test_images_are_cut_into_batches_of_about_one_length():
    assert [s.stop - s.start for s in parts(10, 4)] == [3, 3, 4]
    assert [s.stop - s.start for s in parts(129, 128)] == [64, 65]
    assert list(parts(8, 8)) == [slice(0, 8)] and list(parts(0, 8)) == [slice(0, 0)]
    for n in range(1, 60):
        for batch in range(1, 20):
            cut = list(parts(n, batch))
            assert torch.cat([torch.arange(n)[s] for s in cut]).tolist() == list(range(n))
            lengths = {s.stop - s.start for s in cut}
            assert max(lengths) <= batch and max(lengths) - min(lengths) <= 1 and len(cut) == -(-n // batch)


def test_a_random_function_is_judged_by_its_mean_logits():
    class Flipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.draw = Net(), 0

        def forward(self, x):
            self.draw += 1
            return self.net(x) * (-1) ** self.draw

    x, _ = images()
    target, meter = target_of(Flipping(), draws_averaged=4, draws=Draws())
    assert torch.allclose(target(x), torch.zeros(N, CLASSES), atol=1e-6)
    assert torch.allclose(target(x.requires_grad_()), torch.zeros(N, CLASSES), atol=1e-6)
    assert meter.forwards_of.tolist() == [8] * N


def test_random_draws_stay_with_their_images():
    x, _ = images()
    all_rows, view = target_of(Net())[0], target_of(Net())[0]
    chosen = torch.tensor([8, 3])
    assert torch.equal(view.rows(chosen).uniform(x[chosen], -2.0, 5.0), all_rows.uniform(x, -2.0, 5.0)[chosen])
    assert torch.equal(view.rows(chosen).normal(x[chosen]), all_rows.normal(x)[chosen])
    drawn = all_rows.uniform(x, -2.0, 5.0)
    assert drawn.min() >= -2 and drawn.max() < 5 and drawn.dtype == torch.float32
    assert not torch.equal(all_rows.uniform(x), all_rows.uniform(x)), "the next call draws anew"


def test_an_oracle_is_told_the_label_of_each_image_also_by_a_library_that_cuts_its_own_batches():
    class Oracle(Net):
        labels = None

        def forward(self, x):
            labels_seen.append(self.labels)
            return super().forward(x)

    x, y = images()
    target, labels_seen = target_of(Oracle(), truth=Truth(x, y))[0], []
    target.rows(torch.tensor([7, 2]))(x[[7, 2]])
    some = torch.tensor([4, 9, 0])
    target.module((x[some] + 8 / 255 * torch.randn(3, 1, 6, 6).sign()).clamp(0, 1))
    assert [labels.tolist() for labels in labels_seen] == [y[[7, 2]].tolist(), y[some].tolist()]


def test_frozen_gives_back_what_it_took():
    net = Net()
    net.norm.eval()
    net.head.weight.requires_grad_(False)
    with frozen(net) as inside:
        assert inside is net
        assert not any(module.training for module in net.modules())
        assert not any(parameter.requires_grad for parameter in net.parameters())
    assert net.training and not net.norm.training
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == {"head.weight"}


def test_frozen_restores_also_where_the_method_raises():
    net = Net()
    with pytest.raises(ZeroDivisionError), frozen(net):
        net.train()
        _ = 1 / 0
    assert net.training and all(parameter.requires_grad for parameter in net.parameters())


def test_frozen_notices_a_changed_buffer():
    net = Net()
    with pytest.raises(MethodError, match=r"the network's buffer norm\.\w+ was changed"), frozen(net):
        net.train()
        net(images()[0])
    assert net.training


def test_auto_batch_is_about_the_same_number_of_pixels():
    cpu = torch.device("cpu")
    assert auto_batch((3, 32, 32), cpu) == 128
    assert auto_batch((3, 64, 64), cpu) == 32
    assert auto_batch((3, 200, 300), cpu) == 2
    assert auto_batch((3, 3000, 3000), cpu) == 1
    assert auto_batch((1, 8, 8), cpu) == 1024


def test_rows_asked_for_again_are_the_same_view_until_the_index_changes():
    x, y = images()
    target, meter = target_of(Net())
    index = torch.tensor([4, 1])
    view = target.rows(index)
    assert target.rows(index) is view
    target.rows(index)(x[index])
    index[0] = 9
    target.rows(index)(x[index])
    with torch.inference_mode():
        fixed = torch.tensor([4, 1])
        target.rows(fixed)(x[fixed])
    assert target.rows(index.clone()) is not target.rows(index.clone())
    wanted = [0, 3, 0, 0, 2, 0, 0, 0, 0, 1]
    assert meter.forwards_of.tolist() == wanted


def test_counts_are_exact_however_many_passes_nobody_asked_after():
    x, _ = images()
    target, meter = target_of(Net())
    some = torch.tensor([2, 5])
    for _ in range(1500):
        meter.rows = torch.tensor([2, 5])
        meter._forward(meter, (), torch.zeros(2, 3))
    target.rows(some)(x[some])
    assert meter.forwards_of.tolist() == [0, 0, 1501, 0, 0, 1501, 0, 0, 0, 0]
