"""The local variables of functions, numbered as they appear: what they are called is no part of what a method does.

Parameters, attributes, functions, classes, imports and names of the module keep their names, since a caller can use
them. So does a variable whose name is a word in a text of the file, docstrings aside: a library may look it up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from bench.methods.tree import names, statements

_WORD = re.compile(r"\w+")
_KEEPING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
# What can read the names of variables as it runs; the functions of ``_OF_CALLER`` do without an argument.
_READERS = {"locals", "eval", "exec", "builtins"}
_OF_CALLER = {"vars", "dir"}
_FRAMES = {"_getframe", "currentframe", "stack", "trace"}


def number_local_variables(tree: ast.Module) -> None:
    """Replace, in place, the names of local variables by numbers.

    A number holds the depth of its function and is no name of Python, so it is never taken for another variable. Two
    trees become equal only if they differ in nothing but the names of local variables. Where the file may read these
    names as it runs, nothing is replaced.

    Raises:
        RecursionError: the tree is too deep.
    """
    nodes = list(ast.walk(tree))
    if any(map(_reads_names, nodes)):
        return
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in alone]
    words = map(_WORD.findall, (text for text in texts if isinstance(text, str)))
    _visit(tree, _Scope(frozenset(chain.from_iterable(words))))


def _reads_names(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=[]):
            return name in _READERS | _OF_CALLER
        case ast.Name(id=name) | ast.alias(name=name, asname=None):
            return name in _READERS
        case ast.alias(name=name):
            return name in _READERS | {"inspect", "sys"}
        case ast.Attribute(value=ast.Name(id="inspect" | "sys"), attr=name):
            return name in _FRAMES
        case ast.ImportFrom(module="inspect" | "sys" | "builtins", names=aliases):
            return any(alias.name in _READERS | _FRAMES for alias in aliases)
    return False


@dataclass
class _Scope:
    """The names that a function, a comprehension, a class or the module binds.

    Those that are ``kept`` stay, and so do words of texts; the others become numbers.
    """

    in_texts: frozenset[str]
    bound: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    outer: _Scope | None = None
    is_class: bool = False
    depth: int = 0
    numbers: dict[str, str] = field(default_factory=dict)

    def inside(self, bound: Iterable[str], kept: Iterable[str] = (), *, is_class: bool = False) -> _Scope:
        """Return a scope inside this one; it does not see the names of a class."""
        outer = self.outer if self.is_class else self
        return _Scope(self.in_texts, frozenset(bound), frozenset(kept), outer, is_class, self.depth + 1)

    def name(self, name: str) -> str:
        """Return what a name is called in this scope: a number, or the name itself."""
        if name in self.kept or name in self.in_texts:
            return name
        if name in self.bound:
            return self.numbers.setdefault(name, f"{self.depth}.{len(self.numbers)}")
        return name if self.outer is None else self.outer.name(name)


def _visit(node: ast.AST, scope: _Scope) -> None:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            _visit_fields(node, scope, but="body")
            _visit_all(node.body, _scope_of_function(node.args, node.body, scope))
        case ast.Lambda():
            _visit(node.args, scope)
            _visit(node.body, _scope_of_function(node.args, [], scope))
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            _visit_comprehension(node, scope)
        case ast.ClassDef():
            _visit_fields(node, scope, but="body")
            _visit_all(node.body, scope.inside((), _bound_by(node.body), is_class=True))
        case _:
            _rename(node, scope)
            _visit_fields(node, scope)


def _visit_all(nodes: Iterable[ast.AST], scope: _Scope) -> None:
    for node in nodes:
        _visit(node, scope)


def _visit_fields(node: ast.AST, scope: _Scope, but: str | None = None) -> None:
    """Visit what a node holds, in the order of the fields' names, which every version of Python shares."""
    for name in sorted(set(node._fields) - {but}):
        value = getattr(node, name, None)
        _visit_all(
            [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, ast.AST)], scope
        )


def _visit_comprehension(node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, scope: _Scope) -> None:
    targets = chain.from_iterable(ast.walk(part.target) for part in node.generators)
    inner = scope.inside(target.id for target in targets if isinstance(target, ast.Name) and _is_bound(target))
    # The first iterable is computed outside.
    first = node.generators[0]
    _visit(first.iter, scope)
    _visit_all([first.target, *first.ifs], inner)
    _visit_all(node.generators[1:], inner)
    _visit_fields(node, inner, but="generators")


def _scope_of_function(arguments: ast.arguments, body: list[ast.stmt], scope: _Scope) -> _Scope:
    parameters = {node.arg for node in ast.walk(arguments) if isinstance(node, ast.arg)}
    of_others = _declared(body, ast.Nonlocal)
    kept = parameters | _declared(body, ast.Global)
    for statement in statements(body):
        if isinstance(statement, _KEEPING):
            kept |= names(statement)
    return scope.inside(_bound_by(body) - of_others, kept)


def _bound_by(body: list[ast.stmt]) -> set[str]:
    return set(chain.from_iterable(map(names, statements(body))))


def _declared(body: list[ast.stmt], kind: type[ast.Global] | type[ast.Nonlocal]) -> set[str]:
    return set(chain.from_iterable(each.names for each in statements(body) if isinstance(each, kind)))


def _is_bound(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _rename(node: ast.AST, scope: _Scope) -> None:
    match node:
        case ast.Name():
            node.id = scope.name(node.id)
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            node.name = scope.name(name)
        case ast.MatchMapping(rest=str(rest)):
            node.rest = scope.name(rest)
        case ast.Nonlocal():
            node.names = [scope.name(name) for name in node.names]
