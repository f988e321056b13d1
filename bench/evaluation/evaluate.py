"""Where an attack meets a defense: craft on what the attacker sees, audit, then predict with what is deployed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench import registry
from bench.api import DeployedStep
from bench.draws import Draws
from bench.evaluation.cost import synchronize
from bench.evaluation.target import Meter, NetworkTarget, Truth, auto_batch, parts, set_oracle_labels
from bench.keys import canonical_json, derive_seed
from bench.models.logits import judged, precise, round_off
from bench.process.isolation import frozen, isolated
from bench.store.audit import broken_rule
from bench.types import AttackRef, MethodError, MethodRef, Threat

#: Images kept together.
CHUNK = 128

#: How often a random defense is asked; an image is right if most answers are.
DRAWS = 5

#: Flag of a cell whose attack was only given images that earlier attacks of its suite had not broken.
SURVIVORS_ONLY = "survivors-only"


class DeployedDefense(NamedTuple):
    """A test-time step put on a base classifier; ``draws`` are its random numbers where it draws.

    ``smooth`` makes the second-order form of a purifier for a smoothing width. ``name`` is what its user calls it.
    """

    deployed: nn.Module
    surrogate: nn.Module
    draws: Draws | None = None
    smooth: Callable[[float], nn.Module] | None = None
    name: str = "the network"

    def seed(self, *words: str | int, images: Tensor | None = None) -> None:
        """Begin the draws that these words name; the next batch is of these images, if any are said."""
        if self.draws is not None:
            self.draws.begin(derive_seed(*words), images)


class Crafted(NamedTuple):
    """Adversarial images (N, C, H, W), passes of the base classifier for each, and what the whole chunk took."""

    images: Tensor
    forwards: Tensor
    backwards: Tensor
    seconds: float
    notes: list[str]
    batch: int

    def part(self, s: slice) -> Crafted:
        """Return some of the images with what they took."""
        images, seconds = self.images[s], self.seconds * len(self.images[s]) / len(self.images)
        return Crafted(images, self.forwards[s], self.backwards[s], seconds, self.notes, self.batch)

    @classmethod
    def joined(cls, made: Sequence[Crafted]) -> Crafted:
        """Return several as one."""
        images, forwards, backwards = (torch.cat(column) for column in list(zip(*made, strict=True))[:3])
        notes = sorted({note for each in made for note in each.notes})
        return cls(images, forwards, backwards, sum(m.seconds for m in made), notes, min(m.batch for m in made))


def attack_group_size(image_shape: tuple[int, int, int], device: torch.device) -> int:
    """Return how many images are attacked as one: a chunk, and on a GPU as many chunks as fill it.

    Part of the protocol: libraries that draw for themselves are seeded once for so many.
    """
    return CHUNK * (max(1, auto_batch(image_shape, device) // CHUNK) if device.type == "cuda" else 1)


def deploy(base: nn.Module, step: MethodRef | None, training: Callable[[], Tensor] | None = None) -> DeployedDefense:
    """Return the deployed function and what an adaptive attacker differentiates; both are ``base`` without a step.

    Args:
        base: the classifier.
        step: the test-time step, if any.
        training: gives training images uint8 (N, C, H, W) to a step that is fitted on some.

    Raises:
        MethodError: the step must be fitted, and there are no training images; or it draws, and not from a ``Draws``;
            or it changes ``base``.
    """
    if step is None:
        return DeployedDefense(base, base)
    entry = registry.entry_of(step)
    seed = derive_seed("put on", canonical_json(dict(step.params)))
    with isolated(step.name, seed=seed), frozen(base, strict=True):
        made: DeployedStep = entry.load()(**entry.arguments(step.params))
        if hasattr(made, "fit"):
            if training is None:
                raise MethodError(f"{step.name} is fitted on training images, and its base was trained elsewhere")
            made.fit(training())
        draws = getattr(made, "draws", None)
        if not isinstance(draws, Draws | None) or (draws is None and entry.meta.get("randomised")):
            raise MethodError(
                f"{step.name} is randomised, so its __init__ must set self.draws = Draws(), from bench.api"
            )
        smooth = partial(made.smooth, base) if hasattr(made, "smooth") else None
        return DeployedDefense(made.wrap(base).eval(), made.surrogate(base).eval(), draws, smooth, step.name)


def craft(
    ref: AttackRef,
    base: nn.Module,
    x: Tensor,
    y: Tensor,
    images: Tensor,
    *,
    key: str,
    batch: int,
    check: Callable[[], None] | None = None,
    training: Callable[[], Tensor] | None = None,
    before: Crafted | None = None,
) -> Crafted:
    """Run one attack on one group of images and audit what comes back.

    Args:
        ref: the attack, its threat and the function that it sees.
        base: the base classifier, on the device.
        x: images (N, C, H, W) float32 in [0, 1], on the device.
        y: labels (N,).
        images: identities (N,), so that draws do not depend on the chunk.
        key: what :func:`bench.keys.seed_of` says of ``ref``; every seed comes from it.
        batch: images to push through at once.
        check: called at every pass; what it raises ends the attack.
        training: as for :func:`deploy`.
        before: what earlier attacks of a suite made of the images. Those that the attacked function now gets wrong, and
            a random one in every one of :data:`DRAWS` draws, stay so and cost nothing; what it makes of the clean
            images does not matter, so that the set's accuracy under attack is that of the whole suite.

    Raises:
        MethodError: the attack raised, or returned a wrong shape, a non-finite value, or an image out of its threat.
    """
    entry = registry.entry_of(ref.attack)
    with isolated(ref.attack.name):
        method = entry.load()
    arguments = entry.arguments(ref.attack.params)
    if entry.kind == "library":
        arguments["name"] = ref.attack.name.partition(":")[2]
    fresh = partial(deploy, base, ref.step, training)
    if before is not None:
        attack = partial(craft, ref, base, key=key, batch=batch, check=check, training=training)
        return _on_survivors(attack, fresh, base, x, y, images, key=key, batch=batch, before=before)
    step = fresh()
    # A step that the attack's questions change is no function, and what was found on it is not what is deployed.
    some = (base, x[:8], y[:8], images[:8], (key, "shown", int(images[0])), "shown")
    shown = None if ref.step is None else ask(step, step.surrogate, *some)
    first = int(images[0])
    step.seed(key, "defense", first)
    libraries = derive_seed(key, "libraries", first)
    with isolated(ref.attack.name, seed=libraries), frozen(base), Meter(base, len(x), check) as meter:
        target = NetworkTarget(
            step.surrogate,
            meter,
            images,
            base=base,
            smooth=step.smooth,
            seed=derive_seed(key, "attack"),
            num_classes=ref.data.num_classes,
            batch=batch,
            draws=step.draws,
            draws_averaged=ref.eot if step.draws is not None else 1,
            truth=Truth(x, y),
            margin=_margin(ref, entry, step, base, x.device),
        )
        given_x, given_y = x.clone(), y.clone()
        synchronize(x.device)
        started = time.perf_counter()
        found = method(target, x, y, ref.threat, **arguments)
        synchronize(x.device)
        seconds = time.perf_counter() - started
        if check is not None:
            # Said again to a method that took it for an exception of its own.
            check()
        if not (torch.equal(given_x, x) and torch.equal(given_y, y)):
            raise MethodError(f"{ref.attack.name} changed the images or labels that it was given")
    # Images that still ask for gradients make torch warn wherever a number of theirs is read.
    found = found.detach() if isinstance(found, Tensor) else found
    audit(found, x, ref.threat, ref.attack.name)
    if shown is not None and not torch.equal(shown, ask(step, step.surrogate, *some)):
        target.notes.append("not-deterministic")
    shared_forwards = (meter.forwards - int(meter.forwards_of.sum())) / len(x)
    shared_backwards = (meter.backwards - int(meter.backwards_of.sum())) / len(x)
    return Crafted(
        found.detach(),
        meter.forwards_of + shared_forwards,
        meter.backwards_of + shared_backwards,
        seconds,
        sorted(set(target.notes)),
        target.batch,
    )


def _margin(
    ref: AttackRef, entry: registry.Entry, step: DeployedDefense, base: nn.Module, device: torch.device
) -> float:
    """Return the margin that a success must have, relative to the largest logit, so that it still is one when judged.

    An attack that seeks the least change ends where two classes are as likely, up to round-off, and looks at its images
    in batches of its own; in the batches in which they are judged some would come back. So it is shown a function that
    is harder to break by as much as batches differ. Others leave the boundary behind them and see the function as it
    is; so do all on a random one, whose draws differ by more.
    """
    at_boundary = ref.threat.eps is None or entry.kind == "library" or entry.meta.get("needs") == "labels"
    if step.draws is not None or not (at_boundary or entry.meta.get("bounded") is False):
        return 0.0
    return round_off(base, device)


def _on_survivors(
    attack: Callable[[Tensor, Tensor, Tensor], Crafted],
    fresh: Callable[[], DeployedDefense],
    base: nn.Module,
    x: Tensor,
    y: Tensor,
    images: Tensor,
    *,
    key: str,
    batch: int,
    before: Crafted,
) -> Crafted:
    """Run an attack on the images that the earlier ones left right; the others stay as those left them."""
    seed, earlier = (key, "survivors", int(images[0])), before.images.to(x.device)
    known = predict(fresh(), base, earlier, y, batch, seed=(*seed, 1))
    left = (known.labels == y).any(0).nonzero()[:, 0]
    found, spent = earlier.clone(), torch.zeros(2, len(x))
    if not len(left):
        return Crafted(found, spent[0], spent[1], 0.0, [SURVIVORS_ONLY], batch)
    made = attack(x[left], y[left], images[left.to(images.device)])
    found[left], spent[0, left.cpu()], spent[1, left.cpu()] = made.images, made.forwards, made.backwards
    judge = fresh()
    if judge.draws is not None:
        # Most answers to an earlier image may be wrong already: of the two the stronger one stays.
        again = predict(judge, base, found, y, batch, seed=(*seed, 2))
        found = torch.where(_weaker(again, known, y)[:, None, None, None], earlier, found)
    return made._replace(images=found, forwards=spent[0], backwards=spent[1], notes=[*made.notes, SURVIVORS_ONLY])


def _weaker(attacked: Answer, other: Answer, y: Tensor) -> Tensor:
    """Return for which images more answers are right than to the other one or, of as many, the mean margin is wider."""
    (share, margin), (least, narrowest) = (
        ((answer.labels == y).float().mean(0), answer.margins.mean(0)) for answer in (attacked, other)
    )
    return (share > least) | ((share == least) & (margin > narrowest))


def audit(found: Tensor, x: Tensor, threat: Threat, name: str) -> None:
    """Raises MethodError: ``found`` is not one finite image in the box and in the ball for each of ``x``."""
    if not isinstance(found, Tensor) or found.shape != x.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise MethodError(f"{name} returned {shape}, not images {tuple(x.shape)}")
    if found.layout != x.layout:
        raise MethodError(f"{name} returned a tensor of layout {found.layout}, not {x.layout}")
    if found.dtype != x.dtype or found.device != x.device:
        raise MethodError(f"{name} returned {found.dtype} on {found.device}, not {x.dtype} on {x.device}")
    if (why := broken_rule(found, x, threat)) is not None:
        raise MethodError(f"{name} {why}")


class Answer(NamedTuple):
    """What a deployed function answers, in D draws of N images: labels (D, N), and margins (D, N).

    A margin is the true logit minus the largest other, and the label the true one only where that is above zero.
    Passes of the base classifier are per image and draw.
    """

    labels: Tensor
    margins: Tensor
    forwards: float
    backwards: float


def ask(
    step: DeployedDefense,
    function: nn.Module,
    base: nn.Module,
    x: Tensor,
    y: Tensor,
    images: Tensor,
    seed: tuple[str | int, ...],
    why: str,
) -> Tensor:
    """Return the logits of a batch: of ``step.deployed`` or ``step.surrogate``, without gradients.

    Args:
        step: the instance.
        function: of the two the one that is asked.
        base: the classifier inside.
        x: images (N, C, H, W) in [0, 1], on the device.
        y: labels (N,).
        images: identities (N,).
        seed: words that name the draws of a random function.
        why: names, with ``seed``, the state of the global generators, from which no step may draw.
    """
    run = isolated(step.name, seed=derive_seed(*seed, why))
    with run, frozen(base, strict=True), torch.no_grad():
        step.seed(*seed, images=images)
        set_oracle_labels(function, y)
        return precise(function(x.clone()), x, "the deployed function")


def predict(
    step: DeployedDefense,
    base: nn.Module,
    x: Tensor,
    y: Tensor,
    batch: int,
    *,
    seed: tuple[str | int, ...],
    check: Callable[[], None] | None = None,
) -> Answer:
    """Return what the deployed function answers to images (N, C, H, W) with labels (N,), on its device.

    A random one is asked :data:`DRAWS` times, each with a seed of its own made of the words in ``seed``.

    Raises:
        MethodError: a logit that is not finite, or not one row for each image; or the function changed the network.
    """
    draws = 1 if step.draws is None else DRAWS
    labels: list[Tensor] = []
    margins: list[Tensor] = []
    run = isolated(step.name, seed=derive_seed(*seed, "libraries"))
    with run, frozen(base, strict=True), Meter(base, 0, check) as meter, torch.no_grad():
        for draw in range(draws):
            for s in parts(len(x), batch):
                step.seed(*seed, draw, images=torch.arange(s.start, s.stop))
                set_oracle_labels(step.deployed, y[s])
                # A copy: what a step does to the images that it is given is not done to those it is given next.
                logits = precise(step.deployed(x[s].clone()), x, "the deployed function")
                if logits.dim() != 2 or len(logits) != len(x[s]):
                    raise MethodError(f"the deployed function returned {tuple(logits.shape)} for {len(x[s])} images")
                if not bool(torch.isfinite(logits).all()):
                    raise MethodError("the deployed function returned a logit that is not finite")
                for column, found in zip((labels, margins), judged(logits, y[s]), strict=True):
                    column.append(found)
        if check is not None:
            check()
    shape = (draws, len(x))
    passes = (meter.forwards / len(x) / draws, meter.backwards / len(x) / draws)
    return Answer(torch.cat(labels).view(shape), torch.cat(margins).view(shape), *passes)
