"""What a source file does, as a text: the same for two files that differ only in how they are written.

Comments, layout, docstrings and the names of local variables are left out, and so are the keywords of ``@attack`` from
which a cost is predicted, and of ``@library`` from which a threat follows. A file that mentions ``__doc__`` may
read its docstrings as it runs, so they stay in.
"""

from __future__ import annotations

import ast
from functools import partial

from bench.methods.local_variables import number_local_variables
from bench.methods.tree import called_name, registration

#: Keywords of the decorator ``attack`` from which a cost or a failure is predicted; no result depends on them.
PREDICTING = frozenset(
    {"passes", "least", "most", "early_exit", "averages_draws", "min_classes", "min_classes_targeted"}
)
#: By decorator, the keywords that no result depends on: what an attack of a library minimises decides the threat, which
#: has a name, and with too few classes it has no result.
_LEFT_OUT = {"attack": PREDICTING, "library": frozenset({"minimises", "min_classes", "wrong_classes"})}


def canonical_code(tree: ast.Module, *, with_names: bool) -> str:
    """Return what a source file does as a text; the tree is changed.

    The name of a registered method is left out too, if it is the only one in the file and the file does not use it.

    Args:
        tree: the file.
        with_names: keep the names of local variables.

    Raises:
        RecursionError: the tree is too deep.
    """
    calls = {node: call for node in tree.body if (call := registration(node)) is not None}
    for call in calls.values():
        left_out = _LEFT_OUT.get(called_name(call.func), frozenset())
        call.keywords = [word for word in call.keywords if word.arg not in left_out]
    if not with_names:
        number_local_variables(tree)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for method in calls if len(calls) == 1 else ():
        if isinstance(method, ast.FunctionDef | ast.ClassDef) and method.name not in used:
            method.name = ""
    return canonical(tree, with_docstrings=any(map(_mentions_docstrings, ast.walk(tree))))


def _mentions_docstrings(node: ast.AST) -> bool:
    """Say whether a node is ``__doc__``, ``something.__doc__``, or the text, as for ``getattr``."""
    names = {getattr(node, field, None) for field in ("id", "attr")}
    return "__doc__" in names or (isinstance(node, ast.Constant) and node.value == "__doc__")


def canonical(node: object, *, with_docstrings: bool = False) -> str:
    """Return a syntax tree as a text that is the same in every version of Python.

    ``ast.dump`` and ``ast.unparse`` are not: new versions add fields, and quote f-strings otherwise. So a node is its
    name and those of its fields that are not empty, which new fields are in old code. Strings that are statements,
    docstrings among them unless they are asked for, are left out, and so are a node's use (``ctx``) and spelling
    (``kind``).
    """
    inner = partial(canonical, with_docstrings=with_docstrings)
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!a}"
    if isinstance(node, ast.MatchSingleton):
        return f"MatchSingleton({node.value!r})"
    if isinstance(node, ast.JoinedStr):
        return f"JoinedStr({inner(_joined(node.values))})"
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in sorted(node._fields) if name not in ("ctx", "kind")]
        kept = _docstring(node) if with_docstrings else None
        values = [(name, _alone_left_out(value, kept)) for name, value in fields]
        return f"{type(node).__name__}({','.join(f'{name}={inner(value)}' for name, value in values if value)})"
    if isinstance(node, list):
        return f"[{','.join(map(inner, node))}]"
    return repr(node)


def _docstring(node: ast.AST) -> ast.stmt | None:
    """Return the statement that is the docstring of a node; ``None`` where it has none."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    return node.body[0] if node.body and _is_text(node.body[0]) else None


def _alone_left_out(value: object, kept: ast.stmt | None) -> object:
    """Return a value; of a list without the statements that are only a text, except for one."""
    return [each for each in value if each is kept or not _is_text(each)] if isinstance(value, list) else value


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with neighbouring texts as one: versions of Python cut them differently."""
    joined: list[ast.expr] = []
    for part in parts:
        if isinstance(part, ast.Constant) and joined and isinstance(last := joined[-1], ast.Constant):
            joined[-1] = ast.Constant(str(last.value) + str(part.value))
        elif not isinstance(part, ast.Constant) or part.value:
            joined.append(part)
    return joined
