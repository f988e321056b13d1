"""The local variables of functions, numbered as they appear: their names are not part of what a method does.

The rule errs on the side of keeping a name. A variable is numbered if each of its uses in its outermost function is
inside a function or comprehension that binds it, and if it is no parameter, function, import, part of an annotation or
word of a text. A function keeps all names if it contains a class, ``global``, ``nonlocal``, a type parameter or a name
that begins with two underscores, and so does a file that may read names as it runs.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

_WORD = re.compile(r"\w+")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
# By name, since Python 3.11 has only some of them.
_KEEPING = {"ClassDef", "Global", "Nonlocal", "TypeVar", "ParamSpec", "TypeVarTuple", "TypeAlias"}
# Modules that reach the frames of other functions, and builtins that reach names.
_READING_MODULES = {"builtins", "ctypes", "gc", "inspect", "sys", "traceback"}
_READING_NAMES = {"__builtins__", "__import__", "compile", "eval", "exec", "globals", "locals"}
# These read the variables of their caller unless they get an argument.
_READING_CALLER = {"dir", "vars"}
# Attributes of frames, code objects, tracebacks, generators and coroutines, and what leads to them.
_INSIDES = re.compile(r"(f|co|tb|gi|cr|ag)_\w+|__(code|closure|traceback|globals)__|_getframe|_current_frames")


def may_read_names(tree: ast.Module) -> bool:
    """Say whether a file may look up names of variables, its own or those of its callers, as it runs."""
    nodes = list(ast.walk(tree))
    arguments = {id(node.func) for node in nodes if isinstance(node, ast.Call) and _has_argument(node)}
    return any(_reads_names(node, has_argument=id(node) in arguments) for node in nodes)


def _has_argument(call: ast.Call) -> bool:
    return bool(call.args) and not isinstance(call.args[0], ast.Starred)


def _reads_names(node: ast.AST, *, has_argument: bool) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _READING_NAMES or (name in _READING_CALLER and not has_argument)
        case ast.Attribute(attr=name):
            return _INSIDES.fullmatch(name) is not None
        case ast.Constant(value=str(text)):
            return not _READING_MODULES.isdisjoint(_WORD.findall(text))
        case ast.Import(names=aliases):
            return any(alias.name.partition(".")[0] in _READING_MODULES for alias in aliases)
        case ast.ImportFrom(module=module, names=aliases):
            star = any(alias.name == "*" for alias in aliases)
            return star or (module or "").partition(".")[0] in _READING_MODULES
    return False


def number_local_variables(tree: ast.Module) -> None:
    """Replace, in place, the names of local variables by numbers, in the order in which they appear.

    A number is no name of Python, so it is never taken for another variable.

    Raises:
        RecursionError: the tree is too deep.
    """
    words = _words(tree)
    for function in _outermost(tree):
        _number(function, words)


def _words(tree: ast.Module) -> set[str]:
    """Return the words of all texts but docstrings: a library may look a variable up by a text."""
    standalone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in standalone]
    texts = (node.value for node in constants if isinstance(node.value, str))
    return set(chain.from_iterable(map(_WORD.findall, texts)))


def _outermost(node: ast.AST) -> Iterator[_Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Function):
            yield child
        else:
            yield from _outermost(child)


def _number(function: _Function, words: set[str]) -> None:
    # Defaults, decorators and annotations of the function itself are computed outside it.
    nodes = list(chain.from_iterable(map(_in_order, function.body)))
    if any(type(node).__name__ in _KEEPING or _is_special(node) for node in nodes):
        return
    kept = words | set(chain.from_iterable(map(_seen_from_outside, [*nodes, *ast.walk(function.args)])))
    variables = _bound_where_used(function, nodes) - kept
    numbers: dict[str, str] = {}

    def numbered(name: str) -> str:
        return numbers.setdefault(name, f"local {len(numbers)}") if name in variables else name

    for node in nodes:
        _rename(node, numbered)


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes under one, fields in the order of their names, which is the same in every version of Python."""
    yield node
    for name in sorted(node._fields):
        value = getattr(node, name, None)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _in_order(child)


def _is_special(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id.startswith("__")


def _seen_from_outside(node: ast.AST) -> Sequence[str]:
    """Return names that a caller or a reader of annotations can see."""
    match node:
        case ast.arg(arg=name, annotation=annotation):
            return [name, *_names_in(annotation)]
        case ast.FunctionDef(name=name, returns=returns) | ast.AsyncFunctionDef(name=name, returns=returns):
            return [name, *_names_in(returns)]
        case ast.AnnAssign(annotation=annotation):
            return _names_in(annotation)
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name.partition(".")[0] for alias in aliases]
    return []


def _names_in(node: ast.AST | None) -> list[str]:
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name)] if node is not None else []


def _bound_where_used(function: _Function, nodes: Sequence[ast.AST]) -> set[str]:
    """Return the names of which every use lies in a function or comprehension that binds them."""
    uses: defaultdict[str, set[int]] = defaultdict(set)
    for node in nodes:
        if isinstance(node, ast.Name):
            uses[node.id].add(id(node))
    covered: defaultdict[str, set[int]] = defaultdict(set)
    names: set[str] = set()
    for bound, region in _regions(function, nodes):
        names |= bound
        for node in region:
            if isinstance(node, ast.Name) and node.id in bound:
                covered[node.id].add(id(node))
    return {name for name in names if uses[name] == covered[name]}


def _regions(function: _Function, nodes: Sequence[ast.AST]) -> Iterator[tuple[set[str], Iterator[ast.AST]]]:
    """Yield what each function and comprehension binds, and the nodes that see it."""
    for node in (function, *nodes):
        if isinstance(node, _Function):
            yield _bound_by(node.body), chain.from_iterable(map(ast.walk, node.body))
        elif isinstance(node, _Comprehension):
            # The first iterable is computed outside.
            first = node.generators[0]
            parts = [*_results(node), first.target, *first.ifs, *node.generators[1:]]
            targets = _bound_by([each.target for each in node.generators])
            yield targets, chain.from_iterable(map(ast.walk, parts))


def _results(node: _Comprehension) -> list[ast.expr]:
    return [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]


def _bound_by(parts: Sequence[ast.AST]) -> set[str]:
    """Return the names that statements or targets bind themselves, not in functions or comprehensions inside them."""
    bound: set[str] = set()
    left = list(parts)
    while left:
        node = left.pop()
        if isinstance(node, _Function | ast.Lambda | _Comprehension):
            continue
        name = _bound(node)
        bound |= set() if name is None else {name}
        left += ast.iter_child_nodes(node)
    return bound


def _bound(node: ast.AST) -> str | None:
    """Return the name that a node binds as a variable, if it does."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return name
        case ast.ExceptHandler(name=name) | ast.MatchAs(name=name) | ast.MatchStar(name=name):
            return name
        case ast.MatchMapping(rest=name):
            return name
    return None


def _rename(node: ast.AST, numbered: Callable[[str], str]) -> None:
    match node:
        case ast.Name():
            node.id = numbered(node.id)
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            node.name = numbered(name)
        case ast.MatchMapping(rest=str(rest)):
            node.rest = numbered(rest)
