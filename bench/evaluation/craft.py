"""Adversarial images: an attack runs on the function that its threat model exposes, and its result is audited."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bench import registry
from bench.evaluation.budget import PassBudget
from bench.evaluation.cost import synchronize
from bench.evaluation.defense import DeployedDefense, deploy
from bench.evaluation.goals import ANY, goals_of, joined
from bench.evaluation.precision import is_led_in_bf16
from bench.evaluation.predict import Answer, ask, predict
from bench.evaluation.replays import Replays
from bench.evaluation.target import NO_GRADIENT, Meter, NetworkTarget, Truth, auto_batch, set_oracle_labels
from bench.keys import derive_seed
from bench.models.bf16 import LeadingBf16
from bench.models.logits import round_off
from bench.process.isolation import frozen, isolated
from bench.store.audit import broken_rule, rounding_explains
from bench.types import AttackRef, MethodError, Threat

#: Images kept together.
CHUNK = 128
#: The note on images whose attack was led by gradients in bfloat16.
LED_IN_BF16 = "led-in-bf16"

#: Flag of a cell whose attack was only given images that earlier attacks of its suite had not broken.
SURVIVORS_ONLY = "survivors-only"


class Crafted(NamedTuple):
    """Adversarial images (N, C, H, W), passes of the base classifier for each, and the cost of the entire chunk.

    ``goals`` (N,), int64 on the CPU, are the classes that each was to be given, :data:`bench.evaluation.goals.ANY`
    where any wrong one was a success; ``None`` where that holds for all.
    """

    images: Tensor
    forwards: Tensor
    backwards: Tensor
    seconds: float
    notes: list[str]
    batch: int
    goals: Tensor | None = None

    def part(self, s: slice) -> Crafted:
        """Return some of the images with what they took."""
        images, seconds = self.images[s], self.seconds * len(self.images[s]) / len(self.images)
        goals = None if self.goals is None else self.goals[s]
        return Crafted(images, self.forwards[s], self.backwards[s], seconds, self.notes, self.batch, goals)

    @classmethod
    def joined(cls, group: Sequence[Crafted]) -> Crafted:
        """Return several as one."""
        return cls(
            torch.cat([each.images for each in group]),
            torch.cat([each.forwards for each in group]),
            torch.cat([each.backwards for each in group]),
            sum(each.seconds for each in group),
            sorted(set(chain.from_iterable(each.notes for each in group))),
            min(each.batch for each in group),
            joined([(each.goals, len(each.images)) for each in group]),
        )


def attack_group_size(image_shape: tuple[int, int, int], device: torch.device) -> int:
    """Return how many images are attacked as one: a chunk, and on a GPU as many chunks as fill it.

    Part of the protocol: libraries that draw for themselves are seeded once for so many.
    """
    return CHUNK * (max(1, auto_batch(image_shape, device) // CHUNK) if device.type == "cuda" else 1)


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
    score: nn.Module | None = None,
    before: Crafted | None = None,
    saved: Callable[[Tensor], Tensor] | None = None,
    replays: Replays | None = None,
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
        score: likewise.
        before: what earlier attacks of a suite made of the images. Those that the attacked function now gets wrong, and
            a random one in every one of :data:`bench.keys.DRAWS` draws, stay so and cost nothing; its answers on clean
            images do not matter, so the set's accuracy under attack is that of the entire suite.
        saved: gives the saved images of identities to an attack that reads such.
        replays: records passes that recur, where the device has graphs; afterwards it says how many were replayed. It
            is not used under a budget of passes, since each of them depends on what is left.

    Raises:
        MethodError: the attack raised, or returned a wrong shape, a non-finite value, or an image out of its threat; or
            its ``max_passes`` are fewer than one evaluation takes.
    """
    method = _bound(ref)
    deployed_on = partial(deploy, step=ref.step, training=training, score=score)
    fresh = partial(deployed_on, base)
    is_led = is_led_in_bf16(ref, base, x.shape[1:], x.device)
    led = LeadingBf16(base, x.shape[1:]).eval() if is_led else base
    run = partial(_attack, ref, method, led, partial(deployed_on, led))
    attack: Callable[[Tensor, Tensor, Tensor], Crafted]
    attack = partial(run, key=key, batch=batch, check=check, saved=saved, replays=replays)
    if isinstance(ref.target, int):
        attack = partial(_on_other_classes, attack, ref.target, batch)
    if before is None:
        return attack(x, y, images)
    return _on_survivors(attack, fresh, base, x, y, images, key=key, batch=batch, before=before)


def _bound(ref: AttackRef) -> Callable[[NetworkTarget, Tensor, Tensor, Threat], object]:
    """Return the attack with its parameters filled in."""
    entry = registry.entry_of(ref.attack)
    with isolated(ref.attack.name):
        method = entry.load()
    arguments = entry.arguments(ref.attack.params)
    if entry.kind == "library":
        arguments["name"] = ref.attack.use.partition(":")[2]
    return partial(method, **arguments)


def _attack(
    ref: AttackRef,
    method: Callable[..., object],
    base: nn.Module,
    fresh: Callable[[], DeployedDefense],
    x: Tensor,
    y: Tensor,
    images: Tensor,
    *,
    key: str,
    batch: int,
    check: Callable[[], None] | None,
    saved: Callable[[Tensor], Tensor] | None,
    replays: Replays | None,
) -> Crafted:
    """Run an attack on all images of a group against a fresh instance of the defense, and audit the result."""
    step = fresh()
    first, name = int(images[0]), ref.attack.use
    if saved is not None:
        method = partial(method, images=saved(images).to(x.device))
    # A step whose state changes under attack is not a function, and results on it do not hold for what is deployed.
    few = (base, x[:8], y[:8], images[:8])
    logits = partial(ask, step, step.surrogate, *few, (key, "shown", first), "shown")
    logits_before = None if ref.step is None else logits()
    step.seed(key, "defense", first)
    libraries = derive_seed(key, "libraries", first)
    with isolated(name, seed=libraries), frozen(base), Meter(base, len(x), check, ref.max_passes) as meter:
        budget = _budget(ref, meter, x, y, random=step.draws is not None, check=check)
        target = _target(
            *(ref, step, meter, base, x, y, images),
            seed=derive_seed(key, "attack"),
            batch=batch,
            replays=replays if budget is None else None,
            budget=budget,
        )
        aimed, choosing = _aimed(target, ref, x, y, budget)
        attack = partial(_explained, partial(method, aimed), step.surrogate, meter)
        x_adv, seconds = _timed(attack if budget is None else budget.ending(attack), x, y, ref, check)
    # Images that still require gradients make torch warn wherever one of their values is read.
    x_adv = x_adv.detach() if isinstance(x_adv, Tensor) else x_adv
    audit(x_adv, x, ref.threat, name)
    assert isinstance(x_adv, Tensor)
    if logits_before is not None and not torch.equal(logits_before, logits()):
        target.notes.append("not-deterministic")
    target.notes.extend([] if budget is None else budget.notes)
    target.notes.extend([LED_IN_BF16] if isinstance(base, LeadingBf16) else [])
    forwards = _per_image(meter.forwards, meter.forwards_of)
    backwards = _per_image(meter.backwards, meter.backwards_of)
    goals = None if aimed.goal is None else aimed.goal.cpu()
    return Crafted(x_adv, forwards, backwards, choosing + seconds, sorted(set(target.notes)), target.batch, goals)


def _budget(
    ref: AttackRef, meter: Meter, x: Tensor, y: Tensor, *, random: bool, check: Callable[[], None] | None
) -> PassBudget | None:
    if ref.max_passes is None:
        return None
    return PassBudget(ref.max_passes, meter, Truth(x, y), ref.threat, ref.data.num_classes, random=random, check=check)


def _target(
    ref: AttackRef,
    step: DeployedDefense,
    meter: Meter,
    base: nn.Module,
    x: Tensor,
    y: Tensor,
    images: Tensor,
    *,
    seed: int,
    batch: int,
    replays: Replays | None,
    budget: PassBudget | None,
) -> NetworkTarget:
    leading = base if isinstance(base, LeadingBf16) else None
    return NetworkTarget(
        step.surrogate,
        meter,
        images,
        base=base,
        smooth=step.smooth,
        seed=seed,
        num_classes=ref.data.num_classes,
        batch=batch,
        draws=step.draws,
        draws_averaged=ref.eot if step.draws is not None else 1,
        truth=Truth(x, y),
        margin=_margin(ref, registry.entry_of(ref.attack), step, leading.net if leading else base, x.device),
        replays=replays,
        budget=budget,
        leading=leading,
        # An attack that takes every step whatever comes of it goes by its gradients alone.
        decides=ref.attack.params.get("rule") != "last-iterate",
    )


def _aimed(
    target: NetworkTarget, ref: AttackRef, x: Tensor, y: Tensor, budget: PassBudget | None
) -> tuple[NetworkTarget, float]:
    """Return the target with the classes that a targeted attack is to reach, and the seconds that it took to choose."""
    if ref.target is None:
        return target, 0.0
    synchronize(x.device)
    started = time.perf_counter()
    goals = goals_of(target, ref.target, x, y)
    if budget is not None:
        budget.aim(goals)
    synchronize(x.device)
    return target.towards(goals), time.perf_counter() - started


def _explained(
    attack: Callable[[Tensor, Tensor, Threat], object],
    function: nn.Module,
    meter: Meter,
    x: Tensor,
    y: Tensor,
    threat: Threat,
) -> object:
    """Run an attack on a function.

    Raises:
        MethodError: it failed for want of a gradient, and the function has none.
    """
    try:
        return attack(x, y, threat)
    except RuntimeError as error:
        # torch's words, where an attack or a library differentiates by itself.
        if "does not require grad" not in str(error):
            raise
        set_oracle_labels(function, y[:1])
        with torch.enable_grad(), meter.recording():
            has_none = not function(x[:1].clone().requires_grad_()).requires_grad
        if has_none:
            raise MethodError(NO_GRADIENT) from error
        raise


def _timed(
    attack: Callable[[Tensor, Tensor, Threat], object],
    x: Tensor,
    y: Tensor,
    ref: AttackRef,
    check: Callable[[], None] | None,
) -> tuple[object, float]:
    """Return what an attack returns, unaudited, and its seconds.

    Raises:
        MethodError: it changed the images or labels that it got.
    """
    x_copy, y_copy = x.clone(), y.clone()
    synchronize(x.device)
    started = time.perf_counter()
    x_adv = attack(x, y, ref.threat)
    synchronize(x.device)
    seconds = time.perf_counter() - started
    if check is not None:
        # Raised again in case the method caught it.
        check()
    if not (torch.equal(x_copy, x) and torch.equal(y_copy, y)):
        raise MethodError(f"{ref.attack.use} changed the images or labels that it was given")
    return x_adv, seconds


def _per_image(total: int, counted: Tensor) -> Tensor:
    """Return the passes of each image (N,): its own, and an equal part of those counted for no image."""
    return counted + (total - int(counted.sum())) / len(counted)


def _margin(
    ref: AttackRef, entry: registry.Entry, step: DeployedDefense, base: nn.Module, device: torch.device
) -> float:
    """Return the margin that a success needs, relative to the largest logit, to remain a success when judged.

    An attack that minimizes the change ends where two classes are equally likely, up to round-off, and evaluates images
    in its own batches; in the batches in which they are judged, some would no longer succeed. It therefore attacks a
    function that is harder to break by as much as batches differ. Other attacks cross the boundary clearly and get the
    function unchanged; so do all attacks on a random function, whose draws differ by more.
    """
    at_boundary = ref.threat.eps is None or entry.kind == "library" or entry.meta.get("needs") == "labels"
    if step.draws is not None or not (at_boundary or entry.meta.get("bounded") is False):
        return 0.0
    return round_off(base, device)


def _on_other_classes(
    attack: Callable[[Tensor, Tensor, Tensor], Crafted], goal: int, batch: int, x: Tensor, y: Tensor, images: Tensor
) -> Crafted:
    """Run an attack towards one class on the images of the others; those of that class stay as they are."""
    left = (y != goal).nonzero()[:, 0]
    return _on_some(attack, left, x, y, images, x, torch.full((len(x),), goal), batch)


def _on_some(
    attack: Callable[[Tensor, Tensor, Tensor], Crafted],
    left: Tensor,
    x: Tensor,
    y: Tensor,
    images: Tensor,
    others: Tensor,
    goals: Tensor,
    batch: int,
) -> Crafted:
    """Run an attack on the images at the positions ``left``; the rest are those of ``others``, with their goals."""
    x_adv = others.clone()
    forwards, backwards = torch.zeros(2, len(x))
    if not len(left):
        return Crafted(x_adv, forwards, backwards, 0.0, [], batch, _or_none(goals))
    crafted = attack(x[left], y[left], images[left.to(images.device)])
    x_adv[left] = crafted.images
    at = left.cpu()
    forwards[at], backwards[at] = crafted.forwards.to(forwards), crafted.backwards.to(backwards)
    goals = goals.clone()
    goals[at] = ANY if crafted.goals is None else crafted.goals
    return crafted._replace(images=x_adv, forwards=forwards, backwards=backwards, goals=_or_none(goals))


def _or_none(goals: Tensor) -> Tensor | None:
    return goals if bool((goals != ANY).any()) else None


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
    """Run an attack on the images that the earlier ones did not break, each by its own rule; the others stay."""
    seed, earlier = (key, "survivors", int(images[0])), before.images.to(x.device)
    goals = torch.full((len(x),), ANY) if before.goals is None else before.goals
    known = predict(fresh(), base, earlier, y, batch, seed=(*seed, 1), goals=goals.to(y.device))
    left = known.unbroken.any(0).nonzero()[:, 0]
    crafted = _on_some(attack, left, x, y, images, earlier, goals, batch)
    judge = fresh()
    if len(left) and judge.draws is not None:
        # Most answers to an earlier image may be wrong already: of the two the stronger one stays.
        now = goals if crafted.goals is None else crafted.goals
        again = predict(judge, base, crafted.images, y, batch, seed=(*seed, 2), goals=now.to(y.device))
        weaker = _weaker(again, known)
        images = torch.where(weaker[:, None, None, None], earlier, crafted.images)
        crafted = crafted._replace(images=images, goals=_or_none(torch.where(weaker.cpu(), goals, now)))
    return crafted._replace(notes=[*crafted.notes, SURVIVORS_ONLY])


def _weaker(attacked: Answer, other: Answer) -> Tensor:
    """Return for which images fewer draws are broken than of the other one or, of as many, the mean margin is wider."""
    (share, margin), (least, narrowest) = (
        (answer.unbroken.float().mean(0), answer.margins.mean(0)) for answer in (attacked, other)
    )
    return (share > least) | ((share == least) & (margin > narrowest))


def audit(x_adv: object, x: Tensor, threat: Threat, name: str) -> None:
    """Raises MethodError: ``x_adv`` is not one finite image in the box and in the ball for each of ``x``."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        shape = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise MethodError(f"{name} returned {shape}, not images {tuple(x.shape)}")
    if x_adv.layout != x.layout:
        raise MethodError(f"{name} returned a tensor of layout {x_adv.layout}, not {x.layout}")
    if x_adv.dtype != x.dtype or x_adv.device != x.device:
        raise MethodError(f"{name} returned {x_adv.dtype} on {x_adv.device}, not {x.dtype} on {x.device}")
    if (why := broken_rule(x_adv, x, threat)) is not None:
        raise MethodError(f"{name} {why}{rounding_explains(x_adv, x, threat)}")
