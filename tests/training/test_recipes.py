"""One optimiser step of each recipe against a few independent lines, and the losses against their definitions."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench import draws
from bench.keys import derive_seed
from bench.registry import entries
from bench.training.step import RecipeStep
from bench.types import Threat, UsageError

EPS = 0.1
SEED_PARTS = ("a", "batch")


def seeds(*seed_parts):
    """Return the seed of each draw of a batch."""
    return lambda call: derive_seed(*seed_parts, call)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(256, 5)
        ).train()


@pytest.fixture
def twin(net):
    """The same network for the reference: its own buffers and gradients."""
    import copy

    return copy.deepcopy(net)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(12, 1, 8, 8, generator=generator), torch.arange(12) % 5


ROWS = torch.arange(100, 112)


def share(done):
    """Return the progress of a training as its step says it."""
    return torch.tensor(done, dtype=torch.float64)


def recipe_loss(name, net, batch, done=0.0, **params):
    """Return the loss of a recipe, with its gradients in ``net``, when a share of its training is done."""
    entry = entries("recipe")[name]
    step = RecipeStep(net, 5)
    step.begin(ROWS, seeds(*SEED_PARTS), share(done))
    loss = entry.load()(step, *batch, **entry.arguments(params))
    loss.backward()
    return loss


def assert_same_step(net, twin, loss, expected):
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for actual, reference in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(actual.grad, reference.grad, atol=1e-5)
    for (name, actual), reference in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(actual.float(), reference.float(), atol=1e-6), name


def gradient(net, x, loss_fn):
    """Return the gradient at ``x`` in evaluation mode."""
    net.eval()
    x_leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss_fn(net(x_leaf)), x_leaf)
    net.train()
    return grad


def signed_ascent(net, x, start, loss_fn, steps, alpha, eps=EPS):
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv + alpha * gradient(net, x_adv, loss_fn).sign()
        x_adv = torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def noise(x, kind):
    return getattr(draws, kind)(derive_seed(*SEED_PARTS, 1), ROWS, 1, x.shape[1:])


def test_standard(net, twin, batch):
    loss = recipe_loss("standard", net, batch)
    assert_same_step(net, twin, loss, F.cross_entropy(twin(batch[0]), batch[1]))


@pytest.mark.parametrize("mixed", [False, True])
def test_fgsm_at(net, twin, batch, mixed):
    x, y = batch
    loss = recipe_loss("fgsm-at", net, batch, eps=str(EPS), mixed_batch_norm=mixed)
    x_adv = (x + EPS * gradient(twin, x, lambda z: F.cross_entropy(z, y)).sign()).clamp(0, 1)
    if mixed:
        twin(x)
    assert_same_step(net, twin, loss, F.cross_entropy(twin(x_adv), y))


@pytest.mark.parametrize(("done", "weight"), [(0.0, 0.0), (0.59, 0.0), (0.6, 0.3), (0.99, 0.3)])
@pytest.mark.parametrize("mixed", [False, True])
def test_fgsm_at_with_clean_images_from_a_time_on(net, twin, batch, done, weight, mixed):
    x, y = batch
    params = {"eps": str(EPS), "clean_weight": 0.3, "clean_from": 0.6, "mixed_batch_norm": mixed}
    loss = recipe_loss("fgsm-at", net, batch, done, **params)
    x_adv = (x + EPS * gradient(twin, x, lambda z: F.cross_entropy(z, y)).sign()).clamp(0, 1)
    clean = F.cross_entropy(twin(x), y)
    assert_same_step(net, twin, loss, weight * clean + (1 - weight) * F.cross_entropy(twin(x_adv), y))


def test_the_preset_of_the_paper_updates_the_statistics_twice(net, batch):
    entry = entries("recipe")["fgsm-at"]
    recipe_loss("fgsm-at", net, batch, **entry.meta["presets"]["tpap"])
    assert int(net[1].num_batches_tracked) == 2


def test_fgsm_rs(net, twin, batch):
    x, y = batch
    loss = recipe_loss("fgsm-rs", net, batch, eps=str(EPS))
    start = (x + EPS * (2 * noise(x, "uniform") - 1)).clamp(0, 1)
    x_adv = signed_ascent(twin, x, start, lambda z: F.cross_entropy(z, y), 1, 1.25 * EPS)
    assert_same_step(net, twin, loss, F.cross_entropy(twin(x_adv), y))


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_pgd_at(net, twin, batch, start):
    x, y = batch
    loss = recipe_loss("pgd-at", net, batch, eps=str(EPS), steps=4, step_size="0.03", start=start)
    move = EPS * (2 * noise(x, "uniform") - 1) if start == "uniform" else 0.001 * noise(x, "normal")
    x_adv = signed_ascent(twin, x, (x + move).clamp(0, 1), lambda z: F.cross_entropy(z, y), 4, 0.03)
    assert_same_step(net, twin, loss, F.cross_entropy(twin(x_adv), y))


def test_adversarial_training_by_name_is_the_same_as_its_own_recipe(net, twin, batch):
    loss = recipe_loss("at", net, batch, eps=str(EPS), inner="pgd[steps=4, step_size=0.03, rule=last-iterate]")
    loss_of_own_recipe = recipe_loss("pgd-at", twin, batch, eps=str(EPS), steps=4, step_size="0.03")
    assert loss.item() == loss_of_own_recipe.item()


@pytest.mark.parametrize("inner", ["pgd-kl", "pgd-ce", "fgsm"])
def test_trades(net, twin, batch, inner):
    x, y = batch
    loss = recipe_loss("trades", net, batch, eps=str(EPS), steps=4, step_size="0.03", inner=inner, weight=6.0)
    twin.eval()
    probs_clean = twin(x).detach().softmax(1)
    twin.train()

    def divergence(z):
        return F.kl_div(z.log_softmax(1), probs_clean, reduction="sum")

    def cross_entropy(z):
        return F.cross_entropy(z, y)

    if inner == "fgsm":
        x_adv = (x + EPS * gradient(twin, x, cross_entropy).sign()).clamp(0, 1)
    else:
        loss_fn = divergence if inner == "pgd-kl" else cross_entropy
        x_adv = signed_ascent(twin, x, (x + 0.001 * noise(x, "normal")).clamp(0, 1), loss_fn, 4, 0.03)
    logits, logits_adv = twin(x), twin(x_adv)
    kl = nn.KLDivLoss(reduction="sum")(F.log_softmax(logits_adv, dim=1), F.softmax(logits, dim=1)) / len(x)
    assert_same_step(net, twin, loss, F.cross_entropy(logits, y) + 6.0 * kl)


def mart_loss(logits, logits_adv, y, weight):
    """Return the loss of MART as its authors' code computes it."""
    probs_adv, probs_clean = F.softmax(logits_adv, dim=1), F.softmax(logits, dim=1)
    top_two = torch.argsort(probs_adv, dim=1)[:, -2:]
    other_class = torch.where(top_two[:, -1] == y, top_two[:, -2], top_two[:, -1])
    bce = F.cross_entropy(logits_adv, y) + F.nll_loss(torch.log(1.0001 - probs_adv + 1e-12), other_class)
    true_prob = probs_clean.gather(1, y[:, None]).squeeze(1)
    kl = nn.KLDivLoss(reduction="none")(torch.log(probs_adv + 1e-12), probs_clean).sum(1)
    return bce + weight * (kl * (1.0000001 - true_prob)).mean()


@pytest.mark.parametrize("inner", ["pgd", "fgsm"])
def test_mart(net, twin, batch, inner):
    x, y = batch
    loss = recipe_loss("mart", net, batch, eps=str(EPS), steps=4, step_size="0.03", inner=inner, weight=5.0)

    def cross_entropy(z):
        return F.cross_entropy(z, y)

    if inner == "fgsm":
        x_adv = (x + EPS * gradient(twin, x, cross_entropy).sign()).clamp(0, 1)
    else:
        x_adv = signed_ascent(twin, x, (x + 0.001 * noise(x, "normal")).clamp(0, 1), cross_entropy, 4, 0.03)
    logits, logits_adv = twin(x), twin(x_adv)
    assert_same_step(net, twin, loss, mart_loss(logits, logits_adv, y, 5.0))


def crafted_in_training_mode(net, x, y, start, steps, alpha):
    """Return adversarial images crafted while the network stays in training mode."""
    x_adv = start
    for _ in range(steps):
        x_leaf = x_adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(net(x_leaf), y), x_leaf)
        x_adv = (x_adv + alpha * grad.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return x_adv


def reference(name, **params):
    """Return the authors' settings, at the budget of these tests."""
    return entries("recipe")[name].meta["presets"]["reference"] | params


def test_fgsm_rs_as_its_authors_train(net, twin, batch):
    x, y = batch
    loss = recipe_loss("fgsm-rs", net, batch, **reference("fgsm-rs", eps=str(EPS)))
    start = (x + EPS * (2 * noise(x, "uniform") - 1)).clamp(0, 1)
    x_adv = crafted_in_training_mode(twin, x, y, start, 1, 1.25 * EPS)
    assert_same_step(net, twin, loss, F.cross_entropy(twin(x_adv), y))
    assert int(net[1].num_batches_tracked) == 2


def test_crafting_in_training_mode_makes_other_images(net, batch):
    losses = {
        mode: recipe_loss("fgsm-rs", net, batch, eps=str(EPS), craft_mode=mode).item() for mode in ("eval", "train")
    }
    assert abs(losses["eval"] - losses["train"]) > 1e-3


def test_pgd_training_as_its_authors_train(net, twin, batch):
    x, y = batch
    loss = recipe_loss("pgd-at", net, batch, **reference("pgd-at", eps=str(EPS), step_size="0.025"))
    start = (x + EPS * (2 * noise(x, "uniform") - 1)).clamp(0, 1)
    x_adv = crafted_in_training_mode(twin, x, y, start, 7, 0.025)
    assert_same_step(net, twin, loss, F.cross_entropy(twin(x_adv), y))
    assert int(net[1].num_batches_tracked) == 8


def saturated_pixels(batch):
    """Return images with many pixels at 0 and 1, where clipping a start shows."""
    return (batch[0] * 3 - 1).clamp(0, 1), batch[1]


def unclipped_ascent(net, x, loss_fn, steps, alpha):
    start = x + 0.001 * noise(x, "normal")
    assert float(start.min()) < 0
    return signed_ascent(net, x, start, loss_fn, steps, alpha)


def test_trades_as_its_authors_train(net, twin, batch):
    x, y = saturated_pixels(batch)
    loss = recipe_loss("trades", net, (x, y), **reference("trades", eps=str(EPS), step_size="0.03", steps=4))
    twin.eval()
    probs_clean = twin(x).detach().softmax(1)
    twin.train()
    criterion = nn.KLDivLoss(reduction="sum")
    x_adv = unclipped_ascent(twin, x, lambda z: criterion(F.log_softmax(z, dim=1), probs_clean), 4, 0.03)
    logits = twin(x)
    kl = criterion(F.log_softmax(twin(x_adv), dim=1), F.softmax(twin(x), dim=1)) / len(x)
    assert_same_step(net, twin, loss, F.cross_entropy(logits, y) + 6.0 * kl)
    assert int(net[1].num_batches_tracked) == 3


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_mart_as_its_authors_train(net, twin, batch, scale):
    """Scaled logits saturate the softmax, where the authors' 1e-12 decides, but not so far that rounding does."""
    x, y = saturated_pixels(batch)
    with torch.no_grad():
        for network in (net, twin):
            network[4].weight *= scale
    loss = recipe_loss("mart", net, (x, y), **reference("mart", eps=str(EPS), step_size="0.03", steps=4))
    x_adv = unclipped_ascent(twin, x, lambda z: F.cross_entropy(z, y), 4, 0.03)
    logits, logits_adv = twin(x), twin(x_adv)
    assert_same_step(net, twin, loss, mart_loss(logits, logits_adv, y, 5.0))
    assert (float(F.softmax(logits_adv.detach(), dim=1).min()) < 1e-12) == (scale > 1)


def test_an_unclipped_start_is_not_the_clipped_one(net, twin, batch):
    x, y = saturated_pixels(batch)
    clipped, unclipped = (
        recipe_loss("trades", network, (x, y), eps=str(EPS), steps=1, step_size="3e-3", start=start).item()
        for network, start in ((net, "gaussian"), (twin, "gaussian-unclipped"))
    )
    assert clipped != unclipped


class FixedLogits:
    """A step whose network returns fixed logits: the first for clean images, the second for adversarial ones."""

    def __init__(self, clean, adversarial):
        self.clean, self.adversarial = torch.tensor(clean), torch.tensor(adversarial)

    def attack(self, name, x, y, threat, **params):
        return x + 1

    def net(self, x):
        return self.clean if float(x.max()) < 1 else self.adversarial


def softmax(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


CLEAN = [[2.0, 0.5, -1.0], [0.0, 1.0, 0.0]]
ADVERSARIAL = [[0.5, 1.0, 0.0], [0.2, 0.1, -3.0]]


def loss_terms(labels):
    """Return the terms of both losses, one entry per image, in plain arithmetic."""
    terms = []
    for clean, adversarial, label in zip(CLEAN, ADVERSARIAL, labels, strict=True):
        p, q = softmax(clean), softmax(adversarial)
        terms.append(
            {
                "clean": -math.log(p[label]),
                "adversarial": -math.log(q[label]),
                "margin": -math.log(1.0001 - max(value for k, value in enumerate(q) if k != label)),
                "kl": sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
                "unsure": 1 - p[label],
            }
        )
    return terms


@pytest.mark.parametrize("labels", [(0, 1), (1, 2)])
def test_trades_by_hand(labels):
    loss = entries("recipe")["trades"].load()(
        FixedLogits(CLEAN, ADVERSARIAL), torch.zeros(2, 1), torch.tensor(labels), weight=3.0
    )
    assert loss.item() == pytest.approx(
        sum(term["clean"] + 3 * term["kl"] for term in loss_terms(labels)) / 2, rel=1e-5
    )


@pytest.mark.parametrize("labels", [(0, 1), (1, 2)])
def test_mart_by_hand(labels):
    loss = entries("recipe")["mart"].load()(
        FixedLogits(CLEAN, ADVERSARIAL), torch.zeros(2, 1), torch.tensor(labels), weight=3.0
    )
    expected = sum(
        term["adversarial"] + term["margin"] + 3 * term["kl"] * term["unsure"] for term in loss_terms(labels)
    )
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)


@pytest.mark.parametrize("predicted", range(10))
@pytest.mark.parametrize("right", [True, False])
def test_the_mask_of_the_papers_code(predicted, right):
    """In float32 the 1e-7 of ``(1e-7 + argmax) != y`` is lost from class 2 on: there the mask drops right answers."""
    label = predicted if right else (predicted + 1) % 10
    clean = torch.zeros(1, 10)
    clean[0, predicted] = 3.0
    adversarial = torch.linspace(0, 1, 10)[None]
    mart = entries("recipe")["mart"].load()

    def loss(weight):
        step = FixedLogits(clean.tolist(), adversarial.tolist())
        return mart(step, torch.zeros(1, 1), torch.tensor([label]), weight=weight, masked=True).item()

    mask = (1e-7 + clean.argmax(1).float()) != torch.tensor([label]).float()
    assert (loss(1.0) != loss(0.0)) == bool(mask)


@pytest.mark.parametrize("name", sorted(entries("recipe")))
def test_every_recipe_and_preset_gives_a_finite_scalar_and_leaves_the_batch_alone(name, net, batch):
    x, y = batch[0].clone(), batch[1].clone()
    entry = entries("recipe")[name]
    for preset in ({}, *(entry.meta.get("presets") or {}).values()):
        loss = recipe_loss(name, net, (x, y), **preset)
        assert loss.dim() == 0
        assert math.isfinite(loss.item())
        assert all(module.training for module in net.modules())
        assert all(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(x, batch[0])
    assert torch.equal(y, batch[1])


def test_crafting_sees_a_frozen_network_in_evaluation_mode(net, batch, monkeypatch):
    modes = []

    def spy(target, x, y, threat, **params):
        modes.append((any(module.training for module in net.modules()), any(p.requires_grad for p in net.parameters())))
        target.gradient(x, lambda z: z.sum(1))
        return x

    monkeypatch.setattr("attacks.fgsm.fgsm", spy)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    step = RecipeStep(net, 5)
    step.begin(ROWS, seeds(*SEED_PARTS), share(0.0))
    step.attack("fgsm", *batch, Threat())
    assert modes == [(False, False)]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_draws_of_a_step_belong_to_batch_call_and_image(net):
    x = torch.zeros(12, 1, 8, 8)
    step = RecipeStep(net, 5)
    step.begin(ROWS, seeds(*SEED_PARTS), share(0.0))
    first, second = step.uniform(x, -1, 1), step.uniform(x, -1, 1)
    step.begin(ROWS, seeds(*SEED_PARTS), share(0.0))
    assert torch.equal(step.uniform(x, -1, 1), first)
    assert not torch.equal(first, second)
    step.begin(ROWS.flip(0), seeds(*SEED_PARTS), share(0.0))
    assert torch.equal(step.uniform(x, -1, 1), first.flip(0))
    step.begin(ROWS, seeds("another", "batch"), share(0.0))
    assert not torch.equal(step.uniform(x, -1, 1), first)
    assert -1 <= float(first.min()) < -0.95
    assert 0.95 < float(first.max()) < 1


@pytest.mark.parametrize(
    ("inner", "norm", "bounded"),
    [
        ("fgsm", "linf", True),
        ("mi-fgsm[steps=2]", "linf", True),
        ("ti-dim[steps=2, kernel=3]", "linf", True),
        ("apgd-ce[steps=4]", "l2", True),
        ("cw[steps=20, searches=2, first_c=10, learning_rate=0.1]", "l2", False),
        ("ddn[steps=20]", "l2", False),
        ("sta[steps=60, learning_rate=0.3, smoothness=0]", "flow", False),
        ("fwa[steps=3]", "wasserstein", True),
    ],
)
def test_adversarial_training_by_the_attacks_of_the_paper(net, twin, batch, inner, norm, bounded):
    # Attacks that minimise a norm skip misclassified images, so the labels are the network's predictions.
    x, y = batch[0], twin.eval()(batch[0]).argmax(1)
    step = RecipeStep(net, 5)
    step.begin(ROWS, seeds(*SEED_PARTS), share(0.0))
    x_adv = step.attack(inner, x, y, Threat(norm=norm, eps="0.3" if bounded else None))
    assert F.cross_entropy(twin(x_adv), y) > F.cross_entropy(twin(x), y) + 1e-4
    loss = recipe_loss("at", net, (x, y), inner=inner, norm=norm, eps="0.3", bounded=bounded)
    assert loss.item() == pytest.approx(F.cross_entropy(twin.train()(x_adv), y).item(), rel=1e-4)


@pytest.mark.parametrize(("inner", "norm"), [("cw", "linf"), ("fwa", "l2"), ("pgd", "wasserstein")])
def test_an_attack_is_not_trained_with_under_a_norm_that_it_does_not_keep_to(inner, norm):
    with pytest.raises(UsageError, match=rf"recipe at: norm '{norm}' is not one that {inner} keeps to"):
        entries("recipe")["at"].ref({"inner": inner, "norm": norm})


def test_an_attack_that_needs_a_budget_is_not_trained_with_without_one():
    with pytest.raises(UsageError, match="recipe at: bounded = false, but fwa needs a budget"):
        entries("recipe")["at"].ref({"inner": "fwa", "norm": "wasserstein", "bounded": False})
