"""Mean corruption error (Hendrycks and Dietterich, 2019): what a defense gets wrong under common corruptions.

On ImageNet the error at each of fifteen corruptions, the mean over five severities, is divided by that of AlexNet, and
these fifteen are averaged (their section 3.2). The relative error does the same with what an error exceeds the clean
error by. On other images no such errors of an AlexNet are known, so the errors are averaged as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, product
from statistics import fmean
from types import MappingProxyType
from typing import Literal, NamedTuple

from bench.types import CORRUPTIONS, SEVERITIES, CellResult, DataRef, Measured

#: What columns are called.
UNNORMALISED = "mCE, unnormalised"
NORMALISED = "mCE"
RELATIVE = "relative mCE"

#: The errors of AlexNet on ImageNet-C, means over the five severities, that the authors divide by. They are in the
#: table that the README of their repository, hendrycks/robustness, names under "Calculating the mCE".
ALEXNET: Mapping[str, float] = MappingProxyType(
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.92264,
        "defocus_blur": 0.81988,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.79836,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.71784,
        "jpeg_compression": 0.6065,
    }
)
#: Its error on ImageNet's validation images; it is torchvision's network.
ALEXNET_CLEAN = 0.43478

#: Folders of ImageNet's usual names; of other sets of a thousand classes nothing says that they are it.
_IMAGENET = frozenset({"imagenet", "imagenet1k", "imagenet-1k", "imagenet_1k", "ilsvrc2012"})


def is_imagenet(data: DataRef) -> bool:
    """Say whether a set is ImageNet without corruptions: a user's folder whose path names it, of 1,000 classes."""
    kind, _, path = data.name.partition(":")
    folders = path.lower().replace("\\", "/").split("/")
    return kind in ("folder", "parquet") and not _IMAGENET.isdisjoint(folders) and data.num_classes == 1000


class Condition(NamedTuple):
    """A corruption at a severity."""

    kind: str
    severity: int


class Measure(NamedTuple):
    """One way to average errors under corruptions.

    Attributes:
        label: of its column.
        severities: that errors are averaged over.
        over: what errors are divided by: nothing, those of AlexNet, or these above its clean error.
    """

    label: str
    severities: tuple[int, ...]
    over: Literal["nothing", "alexnet", "alexnet above clean"] = "nothing"

    @property
    def hint(self) -> str:
        """What it is, in words."""
        at = ", ".join(map(str, self.severities))
        mean = f"mean error over {len(CORRUPTIONS)} corruptions at severity {at}"
        if self.over == "nothing":
            return f"{mean}; lower is better"
        each = "each" if self.over == "alexnet" else "what each exceeds the clean error by,"
        return f"{mean}, {each} divided by that of AlexNet on ImageNet-C; lower is better"

    @property
    def conditions(self) -> list[Condition]:
        """All that it averages."""
        return [Condition(*each) for each in product(CORRUPTIONS, self.severities)]

    def value(self, errors: Mapping[Condition, float], clean: float | None) -> float | None:
        """Return the mean, where it is known.

        Args:
            errors: in [0, 1].
            clean: the error without corruptions, where that is known.
        """
        if not all(condition in errors for condition in self.conditions):
            return None
        means = {kind: fmean(errors[Condition(kind, severity)] for severity in self.severities) for kind in CORRUPTIONS}
        if self.over == "nothing":
            return fmean(means.values())
        if self.over == "alexnet":
            return fmean(means[kind] / ALEXNET[kind] for kind in CORRUPTIONS)
        if clean is None:
            return None
        return fmean((means[kind] - clean) / (ALEXNET[kind] - ALEXNET_CLEAN) for kind in CORRUPTIONS)


def measures(known: Iterable[Condition], data: DataRef) -> list[Measure]:
    """Return the ways to average errors at some conditions: over all five severities, or each that is complete.

    Args:
        known: where errors are known.
        data: the images; where they are ImageNet's, those that are normalised come first.
    """
    known = set(known)
    full = [severity for severity in SEVERITIES if all((kind, severity) in known for kind in CORRUPTIONS)]
    if full != list(SEVERITIES):
        return [Measure(f"{UNNORMALISED}, severity {severity}", (severity,)) for severity in full]
    plain = Measure(UNNORMALISED, SEVERITIES)
    if data.name != "imagenet-c" and not is_imagenet(data):
        return [plain]
    normalised = Measure(NORMALISED, SEVERITIES, "alexnet")
    return [normalised, Measure(RELATIVE, SEVERITIES, "alexnet above clean"), plain]


def conditions(attacks: Mapping[str, Sequence[Measured]]) -> dict[Condition, str]:
    """Return which attack is each condition, given the results of attacks by id.

    A condition that is both computed and in its authors' files is that of the files.
    """
    by_file = sorted(attacks.items(), key=lambda each: _file(each[1]) is not None)
    found = {_condition(results): attack for attack, results in by_file}
    return {condition: attack for condition, attack in found.items() if condition is not None}


def of_set(results: Iterable[CellResult]) -> dict[Condition, float]:
    """Return the clean errors of a defense on a set of common corruptions, by condition, means over its seeds."""
    errors: dict[Condition, list[float]] = defaultdict(list)
    for count in chain.from_iterable(result.by_corruption for result in results):
        errors[Condition(count.kind, count.severity)].append(1 - count.right / count.n)
    return {condition: fmean(each) for condition, each in errors.items()}


def _file(results: Sequence[Measured]) -> str | None:
    attack = results[0].cell.attack
    return attack.attack.file if attack is not None else None


def _condition(results: Sequence[Measured]) -> Condition | None:
    attack = results[0].cell.attack
    # In worst-case mode a column is what all corruptions so far leave.
    if attack is None or attack.threat.norm != "corruption" or attack.after:
        return None
    kind, severity = attack.attack.params.get("kind"), attack.attack.params.get("severity")
    if kind not in CORRUPTIONS or not isinstance(severity, int) or severity not in SEVERITIES:
        return None
    return Condition(str(kind), severity)
