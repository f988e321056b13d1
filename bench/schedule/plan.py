"""From a configuration to its cells: every key is known before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from bench import registry
from bench.config import expand
from bench.config.expand import Attack, Base, Defense, Score
from bench.config.sections import Config, ModelConfig
from bench.config.sweeps import labels_of, sweep
from bench.data import cards, data_ref, has_split, open_ref, open_set, rows_of, saved
from bench.data.resizing import Resizing
from bench.differences import methods_of
from bench.evaluation.passes import passes_of
from bench.keys import Keys, models_of, training_key
from bench.models import weights
from bench.models.build import (
    code_of,
    ensemble_ref,
    has_card,
    network_ref,
    normalised_with,
    score_network_ref,
)
from bench.models.weights import WeightsFile
from bench.process.collection import no_collection
from bench.types import (
    AIMS,
    INITIAL_SHA,
    NETWORK_KEYS,
    Access,
    AimedAt,
    AttackRef,
    Cell,
    CraftPrecision,
    DataRef,
    Earlier,
    MethodRef,
    ModelRef,
    Names,
    PlannedCell,
    RunPlan,
    Threat,
    TrainRef,
    UsageError,
    WeightsRef,
    located,
    shown,
)

_log = logging.getLogger("crossfire")
#: A larger plan is refused before any cell is made.
MOST_CELLS = 1_000_000


@dataclass(frozen=True)
class Work:
    """A plan, and where this machine keeps what it names."""

    plan: RunPlan
    data_folder: Path | None
    weights_files: Mapping[str, Path]
    #: Every cell of the configuration, those of other shards too.
    requested: tuple[PlannedCell, ...] = ()
    #: Why weights trained elsewhere cannot be used, by the training key of each classifier that needs them.
    unusable: Mapping[str, str] = field(default_factory=dict)

    def why_unusable(self, model: ModelRef) -> str | None:
        """Return why the weights of a base classifier cannot be used, if so."""
        return self.unusable.get(training_key(model)) if self.unusable else None

    def why_not(self, cell: Cell) -> str | None:
        """Return why a cell can only fail: weights that it needs cannot be used, or its attack needs more classes."""
        why = next((why for model in models_of(cell) if (why := self.why_unusable(model)) is not None), None)
        return too_few_classes(cell) if why is None else why

    @property
    def usable(self) -> Work:
        """The plan without the cells that can only fail."""
        cells = tuple(planned for planned in self.plan.cells if self.why_not(planned.cell) is None)
        return replace(self, plan=RunPlan(name=self.plan.name, cells=cells))


def too_few_classes(cell: Cell) -> str | None:
    """Return that the attack of a cell needs more classes than the images have, if so."""
    if cell.attack is None:
        return None
    ref, there_are = cell.attack.attack, cell.data.num_classes
    least, aimed = _least_classes(ref), registry.entry_of(ref).meta.get("min_classes_targeted") or 0
    is_more_aimed = cell.attack.target is not None and aimed > least
    needs = f"{aimed} classes or more with a target" if is_more_aimed else f"{least} classes or more"
    if there_are >= (aimed if is_more_aimed else least):
        return None
    return f"{ref.name} needs {needs}, and the images have {there_are}"


def _least_classes(ref: MethodRef) -> int:
    entry = registry.entry_of(ref)
    least = entry.meta.get("min_classes")
    if entry.kind == "library":
        return _least_of_library(ref, entry.meta)
    return 2 if least is None else int(least)


def _least_of_library(ref: MethodRef, meta: Mapping[str, Any]) -> int:
    """Return the fewest classes of an attack of a library: of its name with a parameter, else of its name."""
    name, known = ref.name.partition(":")[2], meta.get("min_classes") or {}
    with_params = (known.get(f"{name}[{key}={value}]") for key, value in ref.params.items())
    least = int(next((each for each in with_params if each is not None), known.get(name, 2)))
    aimed_at = ref.params.get((meta.get("wrong_classes") or {}).get(name, ""))
    return max(least, aimed_at + 1) if isinstance(aimed_at, int) else least


def changed(value: Cell | AttackRef) -> MethodRef | None:
    """Return a method that has changed since its reference was made: its code, packages, or files that it reads."""
    return next((ref for ref in methods_of(value) if _code_now(ref) != ref.code_sha), None)


def _code_now(ref: MethodRef) -> str:
    """Return the hash of everything that determines what a method does now, except its parameters."""
    if ref.kind == "network" and ":" in ref.name and ".py:" not in ref.name:
        return code_of(ref)
    entry = registry.entry_of(ref)
    # Parameters take part where they name files or other methods. Checking those of a long suite takes far longer.
    if entry.code_sha == ref.code_sha:
        return ref.code_sha
    return code_of(ref) if ref.kind == "network" else entry.ref(ref.params).code_sha


@no_collection()
def make(
    *configs: Config,
    name: str | None = None,
    data_folder: Path | None = None,
    n: int | None = None,
    seed: int | None = None,
    only: str | None = None,
    shard: tuple[int, int] | None = None,
    thorough: bool = False,
    lenient: bool = False,
) -> Work:
    """Return every cell of the configurations, each once, grouped by base classifier, clean first.

    Args:
        configs: the checked configurations.
        name: of the plan; by default that of the first configuration.
        data_folder: where to look for image sets first.
        n: test images, instead of the configuration's.
        seed: the one seed, instead of the configuration's.
        only: a pattern; only cells whose ``dataset/model/defense/attack/access`` holds it, or matches it with
            wildcards, are kept.
        shard: ``(i, n)`` keeps the i-th of n parts, counted from 1; together they are the plan. Cells that use one
            adversarial set, or sets of one suite, are in one part.
        thorough: hash the images and their decoded copies again, even if they look unchanged.
        lenient: plan the cells of weights files that cannot be used too, so that these fail and the others are done.

    Raises:
        UsageError: a method, value, image set or, unless ``lenient``, weights file that does not hold.
    """
    if n is not None and n <= 0:
        raise UsageError(f"--n {n}: the number of test images must be at least 1")
    if seed is not None and not 0 <= seed < 2**63:
        raise UsageError(f"--seed {shown(seed)}: a whole number from 0 to 2^63 - 1 is needed")
    keys = Keys()
    cells: list[PlannedCell] = []
    files: dict[str, WeightsFile] = {}
    for config in configs:
        cells_of_config, weights_files = _cells_of(config, data_folder, n, seed, keys, thorough=thorough)
        cells += cells_of_config
        files |= {file.sha256: file for file in weights_files}
    problems = {sha: file.problem for sha, file in files.items() if file.problem is not None}
    if problems and not lenient:
        raise UsageError(next(iter(problems.values())))
    if only is not None:
        kept = [cell for cell in cells if cell.names.match(only)]
        if not kept:
            raise UsageError(f"--only {only}: no cell matches; cells are named like {cells[0].names}")
        cells = kept
    by_key: dict[str, PlannedCell] = {}
    for cell in cells:
        by_key.setdefault(cell.key, cell)
    unique = list(by_key.values())
    requested = tuple(unique)
    if shard is not None:
        unique = part(unique, *shard, keys)
    plan = RunPlan(name=name or configs[0].name, cells=tuple(unique))
    paths = {sha: file.path for sha, file in files.items() if file.path is not None}
    return Work(plan, data_folder, paths, requested, _unusable(requested, problems))


def _unusable(cells: tuple[PlannedCell, ...], problems: Mapping[str, str]) -> dict[str, str]:
    """Return the problems of weights files, by their SHA-256, for each classifier of the cells that needs one."""
    if not problems:
        return {}
    models = {id(model): model for model in chain.from_iterable(models_of(planned.cell) for planned in cells)}.values()
    return {
        training_key(model): problems[model.weights.sha256]
        for model in models
        if isinstance(model.weights, WeightsRef) and model.weights.sha256 in problems
    }


def _cells_of(
    config: Config,
    data_folder: Path | None,
    n: int | None,
    seed: int | None,
    keys: Keys,
    *,
    thorough: bool,
) -> tuple[list[PlannedCell], list[WeightsFile]]:
    """Return the cells of one configuration, and the files of weights trained elsewhere.

    Raises:
        UsageError: the requested cells cannot be planned; the line names its file.
    """
    with config.located():
        try:
            return _cells(config, data_folder, n, seed, keys, thorough=thorough)
        # A name or number that a configuration may hold, but no result.
        except ValidationError as error:
            raise UsageError(registry.explain(error, known=())) from None


def _cells(
    config: Config,
    data_folder: Path | None,
    n: int | None,
    seed: int | None,
    keys: Keys,
    *,
    thorough: bool,
) -> tuple[list[PlannedCell], list[WeightsFile]]:
    defenses = expand.defenses(config)
    attacks = expand.attacks(config)
    networks = list(_networks(config))
    seeds = config.seeds if seed is None else [seed]
    count = len(networks) * len(seeds) * len(defenses) * (len(attacks) + 1)
    if count > MOST_CELLS:
        raise UsageError(
            f"{config.name} has {count:,} cells: {len(networks):,} networks x {len(seeds):,} seeds x "
            f"{len(defenses):,} defenses x {len(attacks) + 1:,} columns; a plan takes at most {MOST_CELLS:,}"
        )
    without_hashes = [{k: v for k, v in params.items() if k != INITIAL_SHA} for _, params, _ in networks]
    labels = labels_of(
        [(ref.name, params, swept) for (ref, _, swept), params in zip(networks, without_hashes, strict=True)]
    )
    test = _data(config, "test", data_folder, n if n is not None else config.dataset.n, thorough=thorough)
    attacks = _with_classes(config, _with_hashes(config, attacks, test, data_folder), test, data_folder)
    bases = [defense.base for defense in defenses] + [attack.source for attack in attacks if attack.source]
    bases += [defense.score.weights for defense in defenses if defense.score]
    with config.located("models"):
        for network, _, _ in networks:
            for each in network.members or (network,):
                normalised_with(each, test.image_shape[0])
    train = _training_data(config, bases, test, data_folder, thorough=thorough)
    files = {name: weights.inspect(name) for name in dict.fromkeys(base.weights for base in bases if base.weights)}
    hashes = {name: file.sha256 for name, file in files.items()}
    _warn_of_copies(hashes)
    rows = _by_base(defenses)
    if config.worst_case:
        attacks = sorted(attacks, key=suite_order)
    with config.located("train"):
        cells: list[PlannedCell] = []
        for label, (network, _, _) in zip(labels, networks, strict=True):
            for s in seeds:
                maker = _Maker(label, network, s, test, train, hashes, keys)
                for defense in rows:
                    cells += maker.cells(defense, attacks, chained=config.worst_case)
    return cells, list(files.values())


def _warn_of_copies(hashes: Mapping[str, str]) -> None:
    """Say which weights are those of another name: results have keys by contents, so that such rows are one."""
    first: dict[str, str] = {}
    copies = [(name, first[sha]) for name, sha in hashes.items() if first.setdefault(sha, name) != name]
    if copies:
        others = f", and so on with {len(copies) - 1:,} more" if len(copies) > 1 else ""
        of_first = "%s holds the same weights as %s%s: equal rows are one, under the name that comes first"
        _log.warning(of_first, *copies[0], others)


def _networks(config: Config) -> Iterator[tuple[MethodRef, Mapping[str, Any], frozenset[str]]]:
    """Yield each network with what its name in a table may show: parameters, and which of these it always shows."""
    with config.located("models"):
        expand.require_few("models", ((each.params, 1) for each in config.models))
        for index, each in enumerate(config.models):
            with located(f"models[{index}] ({each.title})"):
                for params, swept in sweep(each.params):
                    if not each.members:
                        ref = network_ref(str(each.arch), params)
                        yield ref, ref.params, swept | _replaced(each)
                        continue
                    ref = ensemble_ref([_member(member, params) for member in each.members], each.combine or "logits")
                    of_members = each.params_of_members
                    shown_params = {**params, **ref.params, **of_members}
                    yield ref, shown_params, swept | _replaced(each) | _normalising(of_members)


def _member(member: ModelConfig, shared: Mapping[str, Any]) -> MethodRef:
    """Return a network of an ensemble: what the entry says holds for each that does not say it itself."""
    with located(str(member.arch)):
        return network_ref(str(member.arch), {**shared, **member.params})


def _replaced(entry: ModelConfig) -> frozenset[str]:
    """Return the parameters that replace what the card of a library's model says, which the name of a row shows."""
    archs = [str(each.arch) for each in entry.members or (entry,)]
    return _normalising(entry.params) if any(map(has_card, archs)) else frozenset()


def _normalising(params: Mapping[str, Any]) -> frozenset[str]:
    names = NETWORK_KEYS["mean"], NETWORK_KEYS["std"]
    return frozenset(name for name in params if name.endswith(names))


def _data(
    config: Config, split: Literal["train", "test"], folder: Path | None, n: int | None, *, thorough: bool
) -> DataRef:
    wanted = config.dataset
    with config.located("dataset"), located("[dataset]"):
        how = _prepared(config)
        images = open_set(
            wanted.name,
            split,
            folder=folder,
            image_size=how.size if how else wanted.size,
            interpolation=how.interpolation if how else wanted.interpolation,
            preprocessing=how and how.preprocessing,
            channels=wanted.channels,
            classes=wanted.classes,
            n=n,
            subset=wanted.subset,
            thorough=thorough,
        )
        return data_ref(images, n, wanted.subset)


def _training_data(
    config: Config, bases: list[Base], test: DataRef, folder: Path | None, *, thorough: bool
) -> DataRef | None:
    """Return the training images; ``None`` where weights have been trained already."""
    schedules = [base.schedule for base in bases if base.schedule is not None]
    if not schedules:
        return None
    # Weights that stay as they are need no images, and a set may have none to train on: any stand for them.
    if all(schedule.epochs == 0 for schedule in schedules):
        with config.located("dataset"), located("[dataset]"):
            if not has_split(config.dataset.name, "train", folder):
                return test
    return _data(config, "train", folder, config.dataset.train_n, thorough=thorough)


def _prepared(config: Config) -> Resizing | None:
    """Return how images are resized and cropped, if they are not merely resized."""
    wanted = config.dataset
    if wanted.crop is not None:
        return cards.resizing(
            wanted.crop,
            resize=wanted.resize,
            crop_pct=wanted.crop_pct,
            crop_mode="squash" if isinstance(wanted.resize, tuple) else "center",
            interpolation=wanted.interpolation,
        )
    if wanted.preprocessing is None:
        return None
    if wanted.preprocessing == "model":
        card = cards.of_networks(chain.from_iterable(map(_archs_with_parameters, config.models)))
    else:
        card = cards.read(wanted.preprocessing)
    if wanted.size not in (None, card.size):
        raise UsageError(f"image_size = {shown(wanted.image_size)} contradicts the card: {card.words}")
    return card


def _archs_with_parameters(entry: ModelConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name and the parameters of a network, or of each member of an ensemble."""
    for each in entry.members or (entry,):
        yield str(each.arch), {**entry.params, **each.params}


def _with_hashes(config: Config, attacks: list[Attack], data: DataRef, folder: Path | None) -> list[Attack]:
    """Return the attacks; those that read saved images get the hash of their file, which is checked.

    Raises:
        UsageError: a file cannot be used for the images of the plan.
    """
    methods = {id(attack.method): attack.method for attack in attacks if attack.method.file is not None}
    if not methods:
        return attacks
    images = open_ref(data, folder=folder)
    rows = rows_of(images, data)
    hashed: dict[int, MethodRef] = {}
    for number, method in methods.items():
        with config.located("attacks"), located(f"attacks ({method.use})"):
            array, severity = saved.choice(method.params)
            sha = saved.checked(saved.path_of(str(method.file)), images, rows, array, severity)
            if method.params["sha256"] not in ("", sha):
                raise UsageError(f'its SHA-256 is {sha}, and sha256 = "{method.params["sha256"]}"')
            hashed[number] = method.model_copy(update={"params": {**method.params, "sha256": sha}})
    return [attack._replace(method=hashed.get(id(attack.method), attack.method)) for attack in attacks]


def _with_classes(config: Config, attacks: list[Attack], data: DataRef, folder: Path | None) -> list[Attack]:
    """Return the attacks; a target class that is given by its name becomes its number.

    Raises:
        UsageError: the images have no such class.
    """
    named = {attack.target for attack in attacks if isinstance(attack.target, str)}.difference(AIMS)
    names = open_ref(data, folder=folder).class_names if named else ()
    with config.located("attacks"):
        return [attack._replace(target=_class_of(attack, names, data.num_classes)) for attack in attacks]


def _class_of(attack: Attack, names: Sequence[str], count: int) -> AimedAt | None:
    target = attack.target
    if isinstance(target, str) and target not in AIMS:
        if target not in names:
            aims = ", ".join(map(repr, AIMS))
            raise UsageError(f"{attack.label}: target is {aims} or a class; {registry.unknown('class', target, names)}")
        return names.index(target)
    if isinstance(target, int) and not 0 <= target < count:
        raise UsageError(f"{attack.label}: target = {target}; the images have classes 0 to {count - 1}")
    return target  # type: ignore[return-value]


def _by_base(defenses: list[Defense]) -> list[Defense]:
    """Return the defenses grouped by base classifier; equal bases become one object."""
    by_base: dict[Base, list[Defense]] = {}
    for defense in defenses:
        by_base.setdefault(defense.base, []).append(defense)
    for base, defenses_of_base in by_base.items():
        by_base[base] = [defense._replace(base=base) for defense in defenses_of_base]
    return list(chain.from_iterable(by_base.values()))


@dataclass
class _Maker:
    """Makes the cells of one network and seed; what they share is one object, so that many fit in little memory."""

    label: str
    network: MethodRef
    seed: int
    data: DataRef
    train: DataRef | None
    hashes: Mapping[str, str]
    keys: Keys
    _models: dict[tuple[int, int], ModelRef] = field(default_factory=dict)
    _steps: dict[tuple[MethodRef, Score], MethodRef] = field(default_factory=dict)
    _sets: dict[tuple[int, int, int, bool, int | None, str | int | None, CraftPrecision], AttackRef] = field(
        default_factory=dict
    )
    _links: dict[tuple[int, int, int | None, AimedAt | None, CraftPrecision], Earlier] = field(default_factory=dict)
    _suites: dict[tuple[int, int], tuple[Earlier, ...]] = field(default_factory=dict)

    def cells(self, defense: Defense, attacks: list[Attack], *, chained: bool) -> Iterator[PlannedCell]:
        """Yield the clean cell of a defense and every attacked one; ``chained`` ones leave what earlier ones broke."""
        model, step = self._model(defense.base, self.seed), self._step(defense)
        suites: dict[Threat, tuple[Earlier, ...]] = {}
        shared = {attack.label for attack in attacks if attack.access == "static"}
        purifies = step is not None and bool(registry.find("test-time", step.name).meta.get("purifier"))

        # A bare classifier has one cell for static and adaptive access, with one adversarial set.
        known: dict[tuple[int, Access], PlannedCell] = {}

        def planned(attack: AttackRef | None, name: str, access: Access) -> PlannedCell:
            names = Names(dataset=self.data.name, model=self.label, defense=defense.label, attack=name, access=access)
            if (same := known.get((id(attack), access))) is not None:
                return PlannedCell(key=same.key, names=names, cell=same.cell)
            cell = Cell(data=self.data, model=model, step=step, access=access, attack=attack, seed=self.seed)
            return known.setdefault((id(attack), access), PlannedCell(key=self.keys.of(cell), names=names, cell=cell))

        yield planned(None, "clean", "white-box" if step is None else "static")
        for attack in attacks:
            attacked = model
            if attack.source is not None:
                attacked = self._model(attack.source, self.seed if attack.source_seed is None else attack.source_seed)
                if attacked == model:
                    continue
            access = "white-box" if step is None and attack.access != "transfer" else attack.access
            if attack.purifiers_only and not (purifies and access == "adaptive"):
                continue
            attack_ref = self._set(attacked, attack, step, access)
            # A set that static attackers use too needs every image.
            if chained and (access == "adaptive" or (access == "white-box" and attack.label not in shared)):
                before = suites.get(attack.threat, ())
                attack_ref = attack_ref.model_copy(update={"after": before})
                suites[attack.threat] = self._longer(before, attack_ref)
            yield planned(attack_ref, attack.label, access)

    def _step(self, defense: Defense) -> MethodRef | None:
        """Return the test-time step of a row, with the network that it predicts noise with where it has one."""
        step, score = defense.step, defense.score
        if step is None or score is None:
            return step
        if (step, score) not in self._steps:
            network = score_network_ref(score.arch, dict(score.params))
            known = ModelRef(network=network, weights=self._weights(score.weights, self.seed))
            self._steps[step, score] = step.model_copy(update={"score": known})
        return self._steps[step, score]

    def _set(self, model: ModelRef, attack: Attack, step: MethodRef | None, access: Access) -> AttackRef:
        stops_early = access in ("white-box", "adaptive") or attack.rule_given
        used = attack.max_passes, attack.target, attack.craft_precision
        identity = (id(model), id(attack.method), id(attack.threat), stops_early, *used)
        if access != "adaptive" and identity in self._sets:
            return self._sets[identity]
        attack_ref = AttackRef(
            model=model,
            step=step if access == "adaptive" else None,
            attack=attack.method if stops_early else _full_strength(attack.method),
            threat=attack.threat,
            data=self.data,
            seed=self.seed,
            eot=attack.eot if access == "adaptive" else 1,
            max_passes=attack.max_passes,
            target=attack.target,
            craft_precision=attack.craft_precision,
        )
        if access != "adaptive":
            self._sets[identity] = attack_ref
        return attack_ref

    def _longer(self, before: tuple[Earlier, ...], attack_ref: AttackRef) -> tuple[Earlier, ...]:
        """Return a suite with one more attack; of suites that began alike it is one object."""
        used = (
            id(attack_ref.attack),
            attack_ref.eot,
            attack_ref.max_passes,
            attack_ref.target,
            attack_ref.craft_precision,
        )
        if (link := self._links.get(used)) is None:
            own = {name: getattr(attack_ref, name) for name in Earlier.model_fields}
            link = self._links[used] = Earlier(**own)
        identity = id(before), id(link)
        if identity not in self._suites:
            self._suites[identity] = (*before, link)
        return self._suites[identity]

    def _model(self, base: Base, seed: int) -> ModelRef:
        if (id(base), seed) not in self._models:
            self._models[id(base), seed] = ModelRef(network=self.network, weights=self._weights(base, seed))
        return self._models[id(base), seed]

    def _weights(self, base: Base, seed: int) -> TrainRef | WeightsRef:
        if base.weights is not None:
            return WeightsRef(name=base.weights, sha256=self.hashes[base.weights], key=base.key)
        assert base.recipe is not None and base.schedule is not None and self.train is not None
        if base.schedule.holdout >= self.train.n:
            raise UsageError(
                f"train: holdout = {base.schedule.holdout} leaves none of the {self.train.n} training images"
            )
        chosen_by = None
        if base.schedule.holdout and "eps" in base.recipe.params:
            attack, params = expand.CHOOSING
            chosen_by = registry.find("attack", attack).ref(params)
        return TrainRef(recipe=base.recipe, schedule=base.schedule, data=self.train, seed=seed, chosen_by=chosen_by)


def suite_order(attack: Attack) -> tuple[bool, float]:
    """Return what to sort a suite by: cheapest first, but without gradients last.

    That a black-box attack breaks what no gradient attack breaks is the sign of masked gradients, and can only be seen
    where those went before.
    """
    if attack.method.name.partition(":")[0] in registry.entries("library"):
        return True, float("inf") if attack.max_passes is None else attack.max_passes
    entry = registry.find("attack", attack.method.name)
    passes = passes_of(str(entry.meta.get("passes")), attack.method.params)
    blind = entry.meta.get("needs", "gradient") in ("scores", "labels")
    most = float("inf") if attack.max_passes is None else attack.max_passes
    return blind, min(most, attack.eot * sum(passes)) if passes else most


def _full_strength(method: MethodRef) -> MethodRef:
    # An image that stops at the bare network's boundary flatters whatever moves it afterwards: a set made for a
    # test-time step, or another network, that the attacker does not see takes every step, as the paper's does.
    if method.params.get("rule") == "any-iterate":
        return method.model_copy(update={"params": {**method.params, "rule": "last-iterate"}})
    return method


def _first(attack: AttackRef) -> AttackRef:
    """Return the set that a suite begins with."""
    if not attack.after:
        return attack
    return attack.continuing(attack.after[0], ())


def part(cells: Sequence[PlannedCell], i: int, n: int, keys: Keys) -> list[PlannedCell]:
    """Return the i-th of n parts of a plan, counted from 1; cells of one set, or of one suite, are in one part."""
    # Dealt out in turn, set by set: every part gets some of each classifier's cheap and expensive attacks.
    sets = [
        keys.of(_first(each.cell.attack)) if each.cell.attack is not None else training_key(each.cell.model)
        for each in cells
    ]
    hands: dict[str, int] = {}
    for name in sets:
        hands.setdefault(name, len(hands) % n)
    return [planned for planned, name in zip(cells, sets, strict=True) if hands[name] == i - 1]
