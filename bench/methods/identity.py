"""What a Python object does, as a hash: of objects that were handed to the harness and lie in no file it can read.

Of functions and classes that come from no installed package, the source counts as that of a method's file does
(:mod:`bench.methods.syntax`), with what they close over, their defaults, and the globals that they use. Of an installed
package its version counts. Of an instance its class and its attributes count.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from bench.api import Draws
from bench.methods import sources
from bench.methods.syntax import syntax
from bench.types import UsageError, shown

_SCALARS = (type(None), bool, int, float, complex, str, bytes, Fraction, type(Ellipsis), range)
#: Attributes of a class that say where and how it was written.
_BOOKKEEPING = frozenset(
    {"__module__", "__doc__", "__dict__", "__weakref__", "__qualname__", "__firstlineno__", "__static_attributes__"}
    | {"__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "_abc_impl"}
    | {"__dataclass_params__", "__dataclass_fields__", "__match_args__", "__orig_bases__", "__parameters__"}
)
#: Parts of a module of torch that decide what it computes, besides its own attributes.
_PARTS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


def identity_of(value: object, what: str) -> str:
    """Return a hash (64 hexadecimal digits) of everything that decides what an object does.

    Args:
        value: a module, an instance, a function, or plain data.
        what: it is, for the message.

    Raises:
        UsageError: a part of it cannot be hashed; the line names the part.
    """
    identity = _Identity(what)
    identity.add(value, "")
    return identity.hexdigest()


def code_of(net: Any, what: str) -> str:
    """Return a hash of everything that decides what a network of torch does, except the numbers of its state.

    Of its parameters and buffers types and shapes count. Every module that it uses must be a part of it: torch does not
    move, freeze or put into evaluation mode what it does not see.

    Raises:
        UsageError: as :func:`identity_of`, or it uses a module with weights that is no part of it.
    """
    parts = {id(module) for module in net.modules()}
    state = {id(tensor) for tensor in chain(net.parameters(), net.buffers())}
    identity = _Identity(what, state=state, parts=parts)
    identity.add(net, "")
    return identity.hexdigest()


class _Identity:
    """Writes an object into a hash, part by part; an object that is met again is written as its number."""

    def __init__(self, what: str, *, state: Collection[int] = (), parts: Collection[int] | None = None) -> None:
        self._what = what
        # Identities of tensors whose numbers do not count, and of the modules that alone may have weights.
        self._state = state
        self._parts = parts
        # Names that the function in which a value was met uses, and those of each source module written so far.
        self._names: frozenset[str] = frozenset()
        self._of_modules: set[tuple[int, str]] = set()
        self._digest = hashlib.sha256()
        # Objects are kept, so that their numbers are not used again.
        self._seen: dict[int, tuple[int, object]] = {}
        self._torch: Any = sys.modules.get("torch")

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def add(self, value: Any, path: str) -> None:
        """Write a value that is found at ``path``, an expression that begins with the object."""
        if isinstance(value, _SCALARS):
            self._write(type(value).__name__, repr(value))
            return
        if isinstance(value, ModuleType):
            self._source_module(value, path)
            return
        if id(value) in self._seen:
            self._write("again", str(self._seen[id(value)][0]))
            return
        self._seen[id(value)] = len(self._seen), value
        try:
            self._writer(value)(value, path)
        except RecursionError:
            raise self._refused(value, path, "it is nested too deeply") from None

    def _writer(self, value: object) -> Callable[[Any, str], None]:
        torch = self._torch
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor
        if torch is not None and isinstance(value, torch.nn.Module):
            return self._module
        writers: list[tuple[Any, Callable[[Any, str], None]]] = [
            ((np.ndarray, np.generic), self._array),
            ((list, tuple), self._sequence),
            ((set, frozenset), self._set),
            ((dict, OrderedDict), self._mapping),
            (FunctionType, self._function),
            (MethodType, self._method),
            (functools.partial, self._partial),
            (type, self._class),
            (CodeType, self._code),
            (Draws, self._named),
        ]
        return next((write for kind, write in writers if isinstance(value, kind)), self._instance)

    def _write(self, *parts: str | bytes) -> None:
        for part in parts:
            data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
            self._digest.update(len(data).to_bytes(8, "big"))
            self._digest.update(data)

    def _refused(self, value: object, path: str, why: str) -> UsageError:
        where = f" at {path.lstrip('.')}" if path else ""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return UsageError(f"{self._what} has no key: {why} ({kind}{where}); leave it out, or make it plain data")

    # Data.

    def _tensor(self, value: Any, path: str) -> None:
        try:
            plain = value.detach().to("cpu")
            plain = plain if plain.layout is self._torch.strided else plain.to_dense()
            data = plain.contiguous().reshape(-1).view(self._torch.uint8).numpy().tobytes()
        except Exception as error:
            raise self._refused(value, path, f"its numbers cannot be read: {shown(str(error))}") from None
        self._write("tensor", str(plain.dtype), str(tuple(plain.shape)), data)

    def _array(self, value: Any, path: str) -> None:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise self._refused(value, path, "it is an array of objects")
        self._write("array", array.dtype.str, str(array.shape), array.tobytes())

    def _sequence(self, value: Iterable[Any], path: str) -> None:
        items = list(value)
        self._write(type(value).__name__, str(len(items)))
        for index, item in enumerate(items):
            self.add(item, f"{path}[{index}]")

    def _set(self, value: Iterable[Any], path: str) -> None:
        # In the order of their hashes, as a set has none of its own.
        self._write("set", *sorted(self._identity_of(item, path) for item in value))

    def _identity_of(self, item: object, path: str) -> str:
        identity = _Identity(self._what, state=self._state, parts=self._parts)
        identity.add(item, path)
        return identity.hexdigest()

    def _mapping(self, value: Mapping[Any, Any], path: str) -> None:
        self._write("dict", str(len(value)))
        for key, item in value.items():
            self.add(key, path)
            self.add(item, f"{path}[{shown(key, 40)}]")

    # Code.

    def _function(self, value: FunctionType, path: str) -> None:
        if self._installed(value):
            return
        self._source_of(value, path)
        self.add(value.__defaults__, f"{path}.__defaults__")
        self.add(value.__kwdefaults__, f"{path}.__kwdefaults__")
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            self._write(name)
            # A variable that is assigned later, as of a function that calls itself.
            if _is_filled(cell):
                self.add(cell.cell_contents, f"{path}.{name}")
        outer, self._names = self._names, frozenset(_names_in(value.__code__))
        for name in sorted(set(_globals_of(value.__code__)) & value.__globals__.keys()):
            self._write(name)
            self.add(value.__globals__[name], f"{path}.{name}")
        for name in sorted(set(_imports_of(value.__code__)) & sys.modules.keys()):
            self._write(name)
            self.add(sys.modules[name], f"{path}.{name}")
        self._names = outer

    def _source_of(self, value: FunctionType, path: str) -> None:
        try:
            if value.__name__ == "<lambda>":
                # Its source is the entire statement, which several may share.
                raise ValueError
            text = textwrap.dedent(inspect.getsource(value)).encode()
            self._write("source", syntax(text).sha)
        except (OSError, TypeError, ValueError):
            self._code(value.__code__, path)

    def _code(self, value: CodeType, path: str) -> None:
        self._write("code", value.co_code, *value.co_names, *value.co_varnames)
        for constant in value.co_consts:
            self.add(constant, path)

    def _method(self, value: MethodType, path: str) -> None:
        self._write("method")
        self.add(value.__func__, path)
        self.add(value.__self__, f"{path}.__self__")

    def _partial(self, value: functools.partial[Any], path: str) -> None:
        self._write("partial")
        self.add(value.func, path)
        self.add(value.args, path)
        self.add(value.keywords, path)

    def _class(self, value: type, path: str) -> None:
        if self._installed(value):
            return
        self._write("class")
        for base in value.__bases__:
            self.add(base, path)
        for name, member in vars(value).items():
            if name not in _BOOKKEEPING:
                self._write(name)
                self.add(_bare(member), f"{path}.{name}")

    def _source_module(self, value: ModuleType, path: str) -> None:
        """Write the source of a user's module, and what those of its names mean now that the function at hand uses."""
        if self._installed(value):
            return
        try:
            self._write("module", syntax(Path(value.__file__ or "").read_bytes()).sha)
        except (OSError, ValueError):
            raise self._refused(value, path, f"the source of {value.__name__} cannot be read") from None
        for name in sorted(self._names & vars(value).keys()):
            if (id(value), name) not in self._of_modules:
                self._of_modules.add((id(value), name))
                self._write(name)
                self.add(vars(value)[name], f"{path}.{name}")

    def _installed(self, value: Any) -> bool:
        """Write the name and version of what comes from an installed package; say whether it does."""
        module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or ""
        top = str(module).partition(".")[0]
        name = "" if isinstance(value, ModuleType) else str(getattr(value, "__qualname__", ""))
        if (version := _version_of(top)) is None:
            return False
        self._write("installed", version, f"{module}:{name}")
        return True

    # Objects.

    def _named(self, value: object, path: str) -> None:
        """Write an object that begins anew at each use: its state does not count."""
        self._write(type(value).__qualname__)

    def _module(self, value: Any, path: str) -> None:
        if self._parts is not None and id(value) not in self._parts and _has_state(self._torch, value):
            raise UsageError(
                f"{self._what} uses a module that is no part of it ({type(value).__name__} at {path.lstrip('.')}), so "
                "torch does not move, freeze or put it into evaluation mode; make it an attribute, or a member of an "
                "nn.ModuleList that is one"
            )
        self.add(type(value), path)
        own = {name: item for name, item in vars(value).items() if name not in _module_attributes(self._torch)}
        self._mapping(own, path)
        for part in _PARTS:
            items = getattr(value, part)
            self._write(part, str(len(items)))
            for name, item in items.items():
                # Hooks have numbers, which go on from network to network.
                self._write("" if part.endswith("hooks") else str(name))
                if id(item) in self._state:
                    self._write(str(item.dtype), str(tuple(item.shape)))
                else:
                    self.add(item, f"{path}.{name}")

    def _instance(self, value: Any, path: str) -> None:
        if isinstance(value, BuiltinFunctionType):
            self._write("builtin", str(value.__module__), value.__qualname__)
            return
        if callable(getattr(value, "__wrapped__", None)):
            # A cache around a function, say, which would be copied by its name.
            self._write("wrapped", type(value).__qualname__)
            self.add(value.__wrapped__, path)
            return
        try:
            # What a copy of it would be made of.
            reduced = value.__reduce_ex__(4)
        except Exception as error:
            raise self._refused(value, path, f"its state cannot be read: {shown(str(error))}") from None
        self._write("instance")
        for part in [reduced] if isinstance(reduced, str) else list(reduced):
            self.add(list(part) if isinstance(part, Iterator) else part, path)


def _bare(member: Any) -> Any:
    """Return what a member of a class runs: the functions of a property, that of a class method."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return [member.fget, member.fset]
    # A slot, or a descriptor of the interpreter's own.
    if inspect.isdatadescriptor(member) and not isinstance(member, FunctionType):
        return type(member).__qualname__
    return member


def _globals_of(code: CodeType) -> Iterator[str]:
    """Yield the names of the globals that some code reads, also inside the functions that it defines."""
    for each in _codes(code):
        for instruction in dis.get_instructions(each):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                yield str(instruction.argval)


def _imports_of(code: CodeType) -> Iterator[str]:
    """Yield the names of the modules that some code imports while it runs."""
    for each in _codes(code):
        names = (instruction for instruction in dis.get_instructions(each) if instruction.opname == "IMPORT_NAME")
        yield from (str(instruction.argval) for instruction in names)


def _names_in(code: CodeType) -> Iterator[str]:
    """Yield every name and text in some code, and so every attribute that it may look up."""
    for each in _codes(code):
        yield from each.co_names
        yield from (constant for constant in each.co_consts if isinstance(constant, str))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield some code, and that of the functions which it defines."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _has_state(torch: Any, module: Any) -> bool:
    """Say whether a module has weights, or does something else in training mode."""
    tensors = chain(module.parameters(), module.buffers())
    dropout = torch.nn.modules.dropout._DropoutNd
    return next(tensors, None) is not None or any(isinstance(each, dropout) for each in module.modules())


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


@functools.cache
def _version_of(top: str) -> str | None:
    """Return an installed package with its version, or the name of what has none; ``None`` of a user's own module."""
    if top in sources.NOT_COUNTED or top in sys.builtin_module_names:
        return top
    spec = sources.find_top(top) if top and top != "__main__" else None
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin and spec.has_location else [])]
    return sources.version(top) if any(sources.is_installed(Path(place)) for place in places) else None


@functools.cache
def _module_attributes(torch: Any) -> frozenset[str]:
    return frozenset(vars(torch.nn.Module()))
