"""What is registered, read from syntax trees: listing and checking a plan import no method and no torch."""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property, partial
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError

from bench.keys import sha256_hex
from bench.methods import data_folders, factories, loading, signature, sources
from bench.methods.data_folders import DataFolder
from bench.methods.declarations import Declaration, dashed, declarations, tree_of
from bench.types import Cell, Kind, MethodRef, UnknownMethod, UsageError, listed, shortened, shown

_ROOT = Path(__file__).resolve().parent.parent
# The import names of a package where they are not the name that pip knows; any of them will do.
_IMPORT_NAMES = {
    "pyautoattack": ("pyautoattack", "autoattack"),
    **{distribution.lower(): (name,) for name, distribution in sources.DISTRIBUTIONS.items()},
}


#: Packages that pip installs alone only: what they ask for besides is not built by current tools, and not needed.
_ALONE = frozenset({"adv-lib", "imagecorruptions"})


def imported_as(package: str) -> str | None:
    """Return the name under which an installed package is imported; ``None`` where it is not installed."""
    # Looking for a module inside a package would run the package.
    names = _IMPORT_NAMES.get(package.lower(), (package.replace("-", "_").partition(".")[0],))
    return next((name for name in names if sources.find_top(name) is not None), None)


def installation(package: str) -> str:
    """Return the command that installs a package, named as pip names it."""
    return f"pip install {'--no-deps ' if package in _ALONE else ''}{package}"


@dataclass(frozen=True)
class Entry(Declaration):
    """One registered method, not yet imported."""

    #: How to find it again where that is not by its name: ``path/to/file.py:name``.
    use: str | None = None

    @property
    def summary(self) -> str:
        return self.doc.strip().partition("\n")[0]

    @property
    def pattern(self) -> str:
        """How a configuration names it; of an adapter, with what stands for the name after its prefix."""
        if self.kind != "library":
            return self.use or self.name
        if not self.meta.get("reads_images"):
            return f"{self.name}:<Class>"
        return f"{self.name}:<folder>" if self.meta.get("file") else f"{self.name}:<file>"

    @property
    def requires(self) -> str | None:
        package: str | None = self.meta.get("requires")
        return package

    @property
    def installation(self) -> str | None:
        """The command that installs what it requires."""
        return self.requires and installation(self.requires)

    @property
    def available(self) -> bool:
        return self.requires is None or imported_as(self.requires) is not None

    @cached_property
    def code(self) -> sources.Code:
        """The method's sources, read at the first need; what was read then is what runs."""
        return sources.code_of(self.path, _ROOT, self.requires and imported_as(self.requires))

    @cached_property
    def code_sha(self) -> str:
        """The hash of everything that decides what the method does, except its parameters."""
        return sha256_hex(self.code.sha, *(code.sha for code in self._code_of_attacks()))

    def _code_of_attacks(self) -> Iterator[sources.Code]:
        """Yield the code of the bundled attacks that it says it crafts with."""
        files = (_ROOT / "attacks" / f"{name.replace('-', '_')}.py" for name in self.meta.get("attacks") or ())
        yield from (sources.code_of(file, _ROOT) for file in files if os.path.isfile(file))

    def code_files(self, params: Mapping[str, Any]) -> frozenset[Path]:
        """Return the files with the code that decides what the method does with some parameters."""
        codes = [self.code, *self._code_of_attacks()]
        if isinstance(crafting := params.get(self.meta.get("inner") or ""), str):
            codes.append(attack_named(crafting).entry.code)
        return frozenset(chain.from_iterable(code.texts for code in codes))

    def defaults(self) -> dict[str, Any]:
        return self.parameters.model_construct().model_dump(mode="json")

    def arguments(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``params`` as the Python values that the method is called with, every default filled in.

        Raises:
            UsageError: an unknown parameter, a value out of range, or a folder of data that is not found.
        """
        values = self.values(params)
        return values | {folder.parameter: str(path) for folder, path in self._folders(values)}

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``params`` say, every default filled in; folders of data are not looked for.

        Raises:
            UsageError: an unknown parameter, or a value out of range.
        """
        try:
            values = self.parameters.model_validate(dict(params))
        except ValidationError as error:
            raise UsageError(
                explain(error, where=f"{self.kind} {self.name}", known=self.parameters.model_fields)
            ) from None
        # The bounds of a required parameter may not fit its type, which pydantic finds out only now.
        except (TypeError, ValueError, ArithmeticError, SchemaError) as error:
            why = signature.plain(error)
            raise UsageError(f"{self.kind} {self.name}: its signature cannot check {shown(params)}: {why}") from None
        require_numbers(params, values, f"{self.kind} {self.name}")
        return {name: getattr(values, name) for name in self.parameters.model_fields} | (values.model_extra or {})

    def spelled_out(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters as :meth:`ref` spells them out, of which no file or folder is looked for.

        Raises:
            UsageError: an unknown parameter, or a value out of range.
        """
        checked = self.values(params)
        values = self.parameters.model_validate(checked)
        return values.model_dump(mode="json", exclude=self._unnamed_folders(checked))

    def ref(self, params: Mapping[str, Any], *, name: str | None = None) -> MethodRef:
        """Return the reference with every parameter spelled out; ``preset`` in ``params`` chooses a named set.

        Raises:
            UsageError: an unknown parameter or preset, a value out of range, or a package or a folder of data that is
                not there.
        """
        if not self.available:
            raise UsageError(f"{self.kind} {self.name} needs a package: {self.installation}")
        settings = dict(params)
        presets: dict[str, dict[str, Any]] = self.meta.get("presets") or {}
        if (chosen := settings.pop("preset", None)) is not None:
            if not isinstance(chosen, str) or chosen not in presets:
                raise UsageError(unknown(f"preset of {self.kind} {self.name}", str(chosen), presets))
            settings = {**presets[chosen], **settings}
        checked = self.values(settings)
        folders = self._folders(checked)
        values = self.parameters.model_validate(checked)
        code = self.code_sha
        if inner := self.meta.get("inner"):
            code = sha256_hex(code, self._crafting(values, inner).code_sha)
        if read := [*self._data(values), *chain.from_iterable(each.contents(path) for each, path in folders)]:
            code = sha256_hex(code, *read)
        kind: Kind = "attack" if self.kind == "library" else self.kind  # type: ignore[assignment]
        try:
            params = values.model_dump(mode="json", exclude=self._unnamed_folders(checked))
            ref = MethodRef(kind=kind, name=name or self.use or self.name, params=params, code_sha=code)
        except ValidationError as error:
            raise UsageError(explain(error, where=f"{self.kind} {self.name}", known=())) from None
        _entry_of_ref[ref.kind, ref.name, ref.code_sha] = self
        return ref

    def _crafting(self, values: BaseModel, inner: str) -> Entry:
        """Return the attack that a recipe crafts with.

        Raises:
            UsageError: it is none, or does not keep to the recipe's norm or to no budget.
        """
        named = getattr(values, inner)
        if not isinstance(named, str):
            raise UsageError(f"{self.kind} {self.name}: {inner} names an attack, not {shown(named)}")
        crafted = attack_named(named)
        crafted.entry.arguments(crafted.params)
        known, norm = crafted.entry.meta.get("norms"), getattr(values, "norm", None)
        if known and norm is not None and norm not in known:
            raise UsageError(
                f"{self.kind} {self.name}: norm '{norm}' is not one that {crafted.entry.name} keeps to: "
                f"{', '.join(known)}"
            )
        if getattr(values, "bounded", True) is False and crafted.entry.meta.get("bounded", True):
            raise UsageError(f"{self.kind} {self.name}: bounded = false, but {crafted.entry.name} needs a budget")
        return crafted.entry

    def _data(self, values: BaseModel) -> list[str]:
        """Return names and hashes of the files that parameters name, from the current folder or that of the method."""
        names_and_hashes = []
        elsewhere = {self.meta.get("inner"), *(folder.parameter for folder in data_folders.declared(self.meta))}
        for name, value in values:
            chosen = name in elsewhere or _is_choice(self.parameters.model_fields.get(name))
            if isinstance(value, str) and not chosen:
                sha = sources.content(value, (Path(), self.path.parent))
                names_and_hashes += [name, sha] if sha is not None else []
        return names_and_hashes

    def _folders(self, values: Mapping[str, Any]) -> list[tuple[DataFolder, Path]]:
        """Return the folders of data that parameters need, and where they are.

        Raises:
            UsageError: one is not found.
        """
        needed = [folder for folder in data_folders.declared(self.meta) if folder.needed(values)]
        try:
            return [(each, each.find(values[each.parameter], installation(each.installed))) for each in needed]
        except UsageError as error:
            raise UsageError(f"{self.kind} {self.name}: {error}") from None

    def _unnamed_folders(self, values: Mapping[str, Any]) -> set[str]:
        """Return the parameters of folders that are not named or not needed: no reference has them.

        So references are the same as before there was such a parameter.
        """
        declared = data_folders.declared(self.meta)
        return {each.parameter for each in declared if not values[each.parameter] or not each.needed(values)}

    def load(self) -> Any:
        """Import the file and return the decorated object.

        Raises:
            UsageError: the file cannot be imported, or does not define it.
            MethodError: a source was edited since it was hashed.
        """
        module = loading.load(self.path, self.code, _ROOT)
        try:
            return getattr(module, self.symbol)
        except AttributeError:
            raise UsageError(f"{self.kind} '{self.use or self.name}': {self.path} defines no {self.symbol}") from None


@dataclass(frozen=True)
class LiveEntry(Entry):
    """A method that was handed over as a Python object: ``value`` is what :meth:`load` returns."""

    value: Any = None
    sha: str = ""

    @cached_property
    def code_sha(self) -> str:
        return self.sha

    def load(self) -> Any:
        return self.value


#: What the name begins with of everything that was handed over as a Python object, and ends with its process.
LIVE = "live:"
_live: dict[tuple[str, str], Entry] = {}


@contextmanager
def offered(entry: LiveEntry) -> Iterator[str]:
    """Register a method for the time of a block; its name, as a configuration gives it, is yielded.

    Another method of that name gets a number behind it.
    """
    same = chain((entry.name,), (f"{entry.name}-{number}" for number in count(2)))
    name = next(name for name in same if (entry.kind, f"{LIVE}{name}") not in _live)
    use = f"{LIVE}{name}"
    named = replace(entry, name=name, use=use)
    _live[entry.kind, use] = named
    try:
        yield use
    finally:
        del _live[entry.kind, use]
        for ref in [ref for ref, known in _entry_of_ref.items() if known is named]:
            del _entry_of_ref[ref]


def live_names(cell: Cell) -> list[str]:
    """Return the names in a cell of what was handed over as Python objects, so that it cannot be measured again."""
    attack = cell.attack
    names = [cell.data.name, cell.model.network.name]
    names += [] if cell.step is None else [cell.step.name]
    names += [] if attack is None else [attack.attack.name, attack.model.network.name]
    return [name for name in dict.fromkeys(names) if name.startswith(LIVE)]


def ended(kind: str, name: str) -> UsageError:
    """Return the error of what was handed over as a Python object, in another process or an earlier call."""
    return UsageError(
        f"{kind} '{name}' was a Python object and ended with its process, so nothing can run it again from here; "
        "call bench.evaluate with it again"
    )


#: What each kind of method is, for the error line of a method of the wrong kind.
_ROLES = {
    "attack": "an attack",
    "library": "a library of attacks (write '{}')",
    "recipe": "a training recipe",
    "test-time": "a test-time step",
    "network": "a network",
    "score-recipe": "a recipe of a score network, which classifies nothing",
    "score-network": "a score network, which predicts noise and classifies nothing",
}
_CALLED = {"test-time": "test-time step", "score-recipe": "recipe of a score", "score-network": "score network"}
_LONGEST_NAME = 200
#: Names that a line lists; libraries have a thousand.
_MOST_NAMED = 60

_entry_of_ref: dict[tuple[str, str, str], Entry] = {}
_log = logging.getLogger("crossfire")


def unknown(noun: str, name: str, known: Iterable[str]) -> str:
    """Return the error line for a name that does not exist, with the nearest name that does."""
    names = sorted(known)
    by_letters = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(name[:_LONGEST_NAME].casefold(), by_letters, n=1, cutoff=0.5)
    there_are = f"there are: {listed(names, _MOST_NAMED)}" if names else "there is none"
    hint = f"did you mean '{by_letters[near[0]]}'?" if near else there_are
    return f"unknown {noun} '{shortened(name, _LONGEST_NAME)}'; {hint}"


def unknown_method(noun: str, name: str, *kinds: str) -> str:
    """Return the error line for a method of none of these kinds; it may be of another kind, or in a file left out.

    Args:
        noun: of the kind that is wanted, such as ``base``.
        name: of the method.
        kinds: the kinds of methods that are allowed.
    """
    for kind in kinds:
        if (line := _all().twice.get((kind, name))) is not None:
            return line
    names = sorted(chain.from_iterable(entries(kind) for kind in kinds))
    other = next((kind for kind in _ROLES if kind not in kinds and name in entries(kind)), None)
    if other is None:
        return unknown(noun, name, names) + perhaps_in(name)
    a = "an" if noun[0] in "aeiou" else "a"
    role = _ROLES[other].format(entries(other)[name].pattern)
    return f"'{name}' is {role}, not {a} {noun}; there are: {', '.join(names)}"


def perhaps_in(name: str) -> str:
    """Return the end of the line about an unknown name: which file that was left out may define it."""
    lines = unread()
    if not lines:
        return ""
    file = f"{name[:_LONGEST_NAME].replace('-', '_')}.py"
    named = [line for path, line in lines if path.name == file]
    more = "" if named or len(lines) == 1 else f"; {len(lines) - 1} more are left out"
    return f" (a file left out may define it: {named[0] if named else lines[0].line}{more})"


def explain(error: ValidationError, *, where: str = "", known: Iterable[str]) -> str:
    """Return a pydantic error as one line: where, what, and what would be right."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        inside = "".join(f"{part}." for part in first["loc"][:-1]).removesuffix(".")
        return _joined(where, inside, unknown("key", str(first["loc"][-1]), known))
    if first["type"] == "too_short" and not first["input"]:
        least = first["ctx"]["min_length"]
        return _joined(where, path, f"an empty list asks for nothing; at least {least} is needed")
    message = first["msg"].removeprefix("Value error, ")
    wanted = _alternatives(error)
    if len(wanted) > 1:
        path, message = path.rpartition(".")[0], f"Input should be {' or '.join(wanted)}"
    contrast = "" if first["type"] in ("missing", "value_error") else f", not {shown(first['input'])}"
    message = message[:1].lower() + message[1:] if message.startswith("Input") else message
    return _joined(where, path, f"{message}{contrast}")


def _alternatives(error: ValidationError) -> list[str]:
    """Return what each type of a union with words asks for, where the first error is of one; else nothing.

    Its types end the path, the words as ``literal[...]``; equal values of several keys have no such end.
    """
    first, *others = error.errors()
    same = [each for each in others if each["input"] is first["input"] and each["loc"][:-1] == first["loc"][:-1]]
    asked = [each["msg"].partition("Input should be ")[2].partition(", ")[0] for each in (first, *same)]
    has_words = any("".join(map(str, each["loc"][-1:])).startswith("literal[") for each in same)
    return asked if has_words and all(asked) else []


def _joined(*parts: str) -> str:
    return ": ".join(filter(None, parts))


def require_numbers(value: object, parsed: object, path: str = "") -> None:
    """Compare a value with the model that pydantic made of it, which takes true for 1 and false for 0.

    Args:
        value: what was validated.
        parsed: what pydantic made of it.
        path: of its keys, for the message.

    Raises:
        UsageError: the value has true or false where a number belongs.
    """
    if isinstance(value, bool) and isinstance(parsed, int | float | Fraction) and not isinstance(parsed, bool):
        raise UsageError(_joined(path, f"{str(value).lower()} is not a number"))
    if isinstance(value, Mapping) and isinstance(parsed, BaseModel):
        fields = {field.alias or name: name for name, field in type(parsed).model_fields.items()}
        for name, inner in value.items():
            require_numbers(inner, getattr(parsed, fields.get(str(name), str(name)), None), _joined(path, str(name)))
    elif isinstance(value, list | tuple) and isinstance(parsed, list | tuple):
        for inner, kept in zip(value, parsed, strict=False):
            require_numbers(inner, kept, path)


@cache
def entries(kind: str) -> Mapping[str, Entry]:
    """Return the methods of a kind by name: ``attack``, ``library``, ``recipe``, ``test-time``, ``network`` and so on.

    What cannot be read is no part of it; see :func:`unread`.
    """
    return MappingProxyType({entry.name: entry for entry in _all().entries if entry.kind == kind})


def read_from(root: Path) -> None:
    """Take the methods in another folder for the harness's own: its ``attacks``, ``defenses`` and ``bench/models``.

    It holds for the process, and is called before anything is read.
    """
    global _ROOT
    _ROOT = root


def code_files_of(ref: MethodRef) -> frozenset[Path]:
    """Return the files with the code that decides what a method does; none of one from an installed package alone."""
    try:
        return entry_of(ref).code_files(ref.params)
    except UsageError:
        return frozenset()


def unread() -> tuple[Unread, ...]:
    """Return the files among the methods that cannot be read, or plug-ins that cannot be found, each with a line."""
    return _all().unread


def find(kind: str, use: str) -> Entry:
    """Return the entry that ``use`` names: a registered name or ``path/to/file.py:name``.

    Raises:
        UsageError: there is none; the line names the nearest.
    """
    if ".py:" in use:
        path, _, symbol = use.rpartition(":")
        return _from_file(Path(path), symbol, kind)
    if use.startswith(LIVE):
        if (live := _live.get((kind, use))) is None:
            raise ended(_CALLED.get(kind, kind), use)
        return live
    known = entries(kind)
    if use not in known:
        raise UnknownMethod(unknown_method(_CALLED.get(kind, kind), use, kind))
    return known[use]


def entry_of(ref: MethodRef) -> Entry:
    """Return the entry that made a reference, its sources as they were then; else the one that its name means now.

    Raises:
        UsageError: there is none.
    """
    if (known := _entry_of_ref.get((ref.kind, ref.name, ref.code_sha))) is not None:
        return known
    prefix = ref.name.partition(":")[0]
    if ref.kind == "attack" and prefix in entries("library"):
        return find("library", prefix)
    return find(ref.kind, ref.name)


class Named(NamedTuple):
    """An attack by its name, and the parameters given with it."""

    entry: Entry
    params: dict[str, Any]


def attack_named(text: str) -> Named:
    """Return the attack that ``name`` or ``name[parameter=value, ...]`` means, library attacks included.

    Raises:
        UsageError: there is no such attack, or the brackets cannot be read.
    """
    name, bracket, rest = text.partition("[")
    settings = [setting.partition("=") for setting in rest.strip().removesuffix("]").split(",")] if bracket else []
    if bracket and not (rest.strip().endswith("]") and all(equals for _, equals, _ in settings)):
        raise UsageError(f"attack '{text}' should read 'name[parameter=value, ...]'")
    params: dict[str, Any] = {key.strip(): value.strip() for key, _, value in settings}
    prefix, _, inside = name.strip().partition(":")
    if prefix in entries("library"):
        return Named(find("library", prefix), {**params, "name": inside})
    return Named(find("attack", name.strip()), params)


def _from_file(path: Path, symbol: str, kind: str) -> Entry:
    if not os.path.isfile(path):
        raise UsageError(f"{kind} '{path}:{symbol}': no file {os.path.abspath(path)}")
    file = _read(path)
    if doubled := [line for entry, line in file.twice if symbol in (entry.symbol, entry.name)]:
        raise UsageError(f"{doubled[0]}; rename one of them")
    matches = [each for each in file.entries if symbol == each.symbol] or [
        each for each in file.entries if symbol == each.name
    ]
    same = [each for each in matches if each.kind == kind]
    if len(same) > 1:
        symbols = " or ".join(each.symbol for each in same)
        raise UsageError(f"{kind} '{path}:{symbol}' is more than one; write {symbols} after the colon")
    if same:
        return replace(same[0], use=f"{path}:{symbol}")
    if matches:
        raise UsageError(f"'{path}:{symbol}' is of kind {matches[0].kind}, not {kind}")
    # A user's own network factory needs no decorator: being named in the configuration is enough.
    if kind == "network" and (own := _factory(path, symbol)) is not None:
        return replace(own, use=f"{path}:{symbol}")
    wanted = f"no function {symbol}" if kind == "network" else f"no {symbol} with a crossfire decorator"
    raise UsageError(f"{kind} '{path}:{symbol}': {path} has {wanted}")


class Unread(NamedTuple):
    """A file whose methods are left out, or the module of a plug-in; ``line`` names it, and says where and why."""

    path: Path
    line: str


class _File(NamedTuple):
    """The methods of a file; ``twice`` are those whose name it gives more than one meaning, each with a line."""

    entries: list[Entry]
    twice: list[tuple[Entry, str]]


class _All(NamedTuple):
    """What is registered, sorted by name, and what is not.

    ``twice`` holds a line for each kind and name that two methods have, or that a file gives two meanings, so that
    neither of them counts.
    """

    entries: tuple[Entry, ...]
    unread: tuple[Unread, ...]
    twice: Mapping[tuple[str, str], str]


@cache
def _all() -> _All:
    """Read every file of methods and every plug-in; one that cannot be read is left out with a warning."""
    registered: dict[tuple[str, str], Entry] = {}
    twice: dict[tuple[str, str], str] = {}
    lost: list[Unread] = []
    for path, read in _sources():
        try:
            file = read()
        except UsageError as error:
            lost.append(Unread(path, str(error)))
            _log.warning("%s: its methods are left out", error)
            continue
        for entry, line in file.twice:
            if twice.setdefault((entry.kind, entry.name), line) is line:
                _log.warning("%s: it does not count; rename one of them", line)
        for entry in file.entries:
            kind_and_name = entry.kind, entry.name
            if (first := registered.setdefault(kind_and_name, entry)) is not entry and kind_and_name not in twice:
                line = f"{entry.kind} '{entry.name}' is registered twice: in {first.path} and {entry.path}"
                twice[kind_and_name] = str(UsageError(line))
                _log.warning("%s: neither counts; rename one of them", twice[kind_and_name])
    unique = [entry for kind_and_name, entry in registered.items() if kind_and_name not in twice]
    unique.sort(key=lambda entry: entry.name)
    return _All(tuple(unique), tuple(lost), MappingProxyType(twice))


def _sources() -> Iterator[tuple[Path, Callable[[], _File]]]:
    """Yield each file that may register methods with what reads it, which raises UsageError where it cannot be read."""
    for folder in (_ROOT / "attacks", _ROOT / "defenses", _ROOT / "bench" / "models"):
        for path in sorted(folder.glob("*.py")):
            if not path.name.startswith("_"):
                yield path, partial(_bundled, path)
    for group in ("crossfire.attacks", "crossfire.defenses"):
        for point in importlib.metadata.entry_points(group=group):
            module, _, symbol = point.value.partition("[")[0].replace(" ", "").partition(":")
            where = f"plug-in {group} '{point.name}'"
            yield Path(f"{module.replace('.', '/')}.py"), partial(_plugged_in, where, module, symbol)


def _bundled(path: Path) -> _File:
    if not os.path.isfile(path):
        raise UsageError(f"{path} is a folder, a broken link or no regular file")
    return _read(path)


def _plugged_in(where: str, module: str, symbol: str) -> _File:
    spec = sources.find_module(module)
    if spec is None or spec.origin is None or not spec.has_location:
        raise UsageError(f"{where}: no module {module} that lies in a file")
    file = _read(Path(spec.origin))
    named = _File(
        [entry for entry in file.entries if entry.symbol == symbol],
        [(entry, line) for entry, line in file.twice if entry.symbol == symbol],
    )
    if not any(named):
        raise UsageError(f"{where}: {spec.origin} has no {symbol} with a crossfire decorator")
    return named


def _read(path: Path) -> _File:
    file = _File([], [])
    for declaration, ambiguity in declarations(path):
        entry = Entry(**vars(declaration))
        if ambiguity is None:
            file.entries.append(entry)
        else:
            file.twice.append((entry, ambiguity))
    return file


def _factory(path: Path, symbol: str) -> Entry | None:
    read = factories.read(tree_of(path), path, symbol)
    if read is None:
        return None
    known = {*read.fields, *read.others}

    def only_known(settings: dict[str, Any]) -> dict[str, Any]:
        for name, value in settings.items():
            if name in factories.FROM_IMAGES and not (read.is_open and name != "num_classes"):
                raise ValueError(f"{name} is what the images have; leave it out")
            if name not in known and not read.is_open:
                raise ValueError(unknown("key", name, known))
            if not isinstance(value, str | int | float | None):
                raise ValueError(f"{name} should be a number, a text, true or false, not {value!r}")
        if missing := [name for name, (_, default) in read.fields.items() if default is ... and name not in settings]:
            raise ValueError(factories.lacks(missing))
        return settings

    parameters = create_model(
        symbol,
        __config__=ConfigDict(extra="allow", frozen=True, protected_namespaces=()),
        __validators__={"only_known": model_validator(mode="before")(only_known)},
        **read.fields,  # type: ignore[call-overload]
    )
    return Entry("network", dashed(symbol), read.doc, path, symbol, MappingProxyType({}), parameters)


def _is_choice(field: FieldInfo | None) -> bool:
    """Say whether a parameter takes one of a few words."""
    annotation = None if field is None else field.annotation
    return any(get_origin(each) is Literal for each in (annotation, *get_args(annotation)))
