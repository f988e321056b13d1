"""A hash ignores what local variables are called, and nothing else about them."""

import ast
import itertools
import random
import symtable
import sys
from itertools import chain
from pathlib import Path

import pytest

from bench.methods.sources import code_of
from bench.methods.syntax import syntax

SOURCES = sorted([*Path("attacks").glob("*.py"), *Path("defenses").glob("*.py")])
#: A file that imports ``inspect`` keeps all names.
PLAIN = [path for path in SOURCES if "import inspect" not in path.read_text(encoding="utf-8")]

SAME = {
    "assigned": ("def f(x):\n    y = x\n    return y", "def f(x):\n    x_adv = x\n    return x_adv"),
    "unpacked": ("def f(x):\n    a, *b = x\n    return b", "def f(x):\n    c, *d = x\n    return d"),
    "loop": ("def f(x):\n    for a in x: a += 1", "def f(x):\n    for b in x: b += 1"),
    "with": ("def f(x):\n    with x as a: a()", "def f(x):\n    with x as b: b()"),
    "walrus": ("def f(x):\n    return (a := x) + a", "def f(x):\n    return (b := x) + b"),
    "deleted": ("def f(x):\n    a = x\n    del a", "def f(x):\n    b = x\n    del b"),
    "comprehension": (
        "def f():\n    return [a for a in range(3) if a]",
        "def f():\n    return [b for b in range(3) if b]",
    ),
    "two loops": ("def f(c): return {a: b for a in c for b in a}", "def f(c): return {d: e for d in c for e in d}"),
    "error": (
        "def f():\n    try: g()\n    except E as a: h(a)",
        "def f():\n    try: g()\n    except E as b: h(b)",
    ),
    "pattern": (
        "def f(x):\n    match x:\n        case [a, *b] | {'k': a, **b}: g(a, b)",
        "def f(x):\n    match x:\n        case [c, *d] | {'k': c, **d}: g(c, d)",
    ),
    "closure": (
        "def f(x):\n    a = x\n    def g(y):\n        b = a\n        return a + b + y\n    return g",
        "def f(x):\n    p = x\n    def g(y):\n        q = p\n        return p + q + y\n    return g",
    ),
    "method": (
        "class C:\n    a = 1\n    def f(self):\n        a = self.a\n        return a",
        "class C:\n    a = 1\n    def f(self):\n        b = self.a\n        return b",
    ),
    "lambda": ("def f(x):\n    a = x\n    return lambda y: a + y", "def f(x):\n    b = x\n    return lambda y: b + y"),
    "docstring": ("def f(x):\n    'of a'\n    a = x\n    return a", "def f(x):\n    'of b'\n    b = x\n    return b"),
    "keyword": ("def f(x):\n    a = x\n    return g(a=a)", "def f(x):\n    b = x\n    return g(a=b)"),
    "evaluation mode": ("def f(x):\n    a = x\n    a.eval()", "def f(x):\n    b = x\n    b.eval()"),
    "cost": (
        "@attack(norms=('l2',), passes='1 forward', early_exit='stalled')\ndef f(t, x, y, h): ...",
        "@attack(norms=('l2',), passes='about one forward', averages_draws=False)\ndef f(t, x, y, h): ...",
    ),
}

OTHER = {
    "another variable": ("def f(a, b):\n    c, d = a, b\n    return c", "def f(a, b):\n    c, d = a, b\n    return d"),
    "one variable for two": ("def f(a):\n    b = a\n    c = b", "def f(a):\n    b = a\n    b = b"),
    "parameter": ("def f(x, *, steps): return steps", "def f(x, *, n): return n"),
    "variable and parameter": ("def f(x):\n    y = 1\n    return y", "def f(x):\n    x = 1\n    return x"),
    "variable and global": ("def f():\n    a = 1\n    return b", "def f():\n    a = 1\n    return a"),
    "global": ("def f():\n    return a", "def f():\n    return b"),
    "declared global": ("def f():\n    global a\n    a = 1", "def f():\n    global b\n    b = 1"),
    "global inside": (
        "def f():\n    a = 1\n    def g():\n        global a\n        return a\n    return g",
        "def f():\n    a = 1\n    def g():\n        return a\n    return g",
    ),
    "free and own": (
        "def f():\n    a = 1\n    def g():\n        b = 2\n        return a\n    return g",
        "def f():\n    a = 1\n    def g():\n        b = 2\n        return b\n    return g",
    ),
    "shadowed": ("def f(x):\n    a = x\n    return [a for b in x]", "def f(x):\n    a = x\n    return [a for a in x]"),
    "first iterable": (
        "def f(x):\n    a = x\n    return [b for b in a]",
        "def f(x):\n    a = x\n    return [b for b in b]",
    ),
    "attribute": ("def f(x): return x.a", "def f(x): return x.b"),
    "keyword": ("def f(x): return g(a=x)", "def f(x): return g(b=x)"),
    "class": (
        "def f():\n    class C:\n        a = 1\n    return C",
        "def f():\n    class C:\n        b = 1\n    return C",
    ),
    "class is not seen by its methods": (
        "def f():\n    a = 1\n    class C:\n        a = 2\n        def g(self): return a",
        "def f():\n    b = 1\n    class C:\n        a = 2\n        def g(self): return a",
    ),
    "read by name": (
        "def f(x):\n    a = x\n    b = 1\n    return g('a + 1')",
        "def f(x):\n    b = x\n    a = 1\n    return g('a + 1')",
    ),
    "locals": ("def f(x):\n    a = x\n    return locals()", "def f(x):\n    b = x\n    return locals()"),
    "vars": ("def f(x):\n    a = x\n    return vars()", "def f(x):\n    b = x\n    return vars()"),
    "frame": (
        "def f(x):\n    a = x\n    return sys._getframe()",
        "def f(x):\n    b = x\n    return sys._getframe()",
    ),
    "inspect": (
        "from inspect import stack\ndef f(x):\n    a = x\n    return stack()",
        "from inspect import stack\ndef f(x):\n    b = x\n    return stack()",
    ),
    "eval": ("def f(x, t):\n    a = x\n    return eval(t)", "def f(x, t):\n    b = x\n    return eval(t)"),
    "no case and a false one": (
        "def f(x):\n    match x:\n        case None: return 1",
        "def f(x):\n    match x:\n        case False: return 1",
    ),
    "parameter of a lambda in a default": (
        "def f():\n    a = 1; b = 2\n    def g(k=lambda a: a): return a\n    return g(), b",
        "def f():\n    b = 1; a = 2\n    def g(k=lambda a: a): return a\n    return g(), a",
    ),
    "fields of a class": (
        "def f():\n    low, high = 1, 2\n    class P(NamedTuple):\n        low: int\n        high: int\n"
        "    return P(low, high).low",
        "def f():\n    high, low = 1, 2\n    class P(NamedTuple):\n        high: int\n        low: int\n"
        "    return P(high, low).low",
    ),
    "nonlocal in a class": (
        "def f():\n    a = 1; b = 2\n    class C:\n        nonlocal a\n        a = 3\n    return a, b",
        "def f():\n    b = 1; a = 2\n    class C:\n        nonlocal a\n        a = 3\n    return b, a",
    ),
    "global in a class": (
        "def f():\n    a = 1; b = 2\n    class C:\n        global a\n        x = a\n    return C.x",
        "def f():\n    b = 1; a = 2\n    class C:\n        global a\n        x = b\n    return C.x",
    ),
    "nonlocal import": (
        "def f():\n    a = 1; b = 2\n    def g():\n        nonlocal a\n        import math as a\n    g(); return a, b",
        "def f():\n    b = 1; a = 2\n    def g():\n        nonlocal a\n        import math as a\n    g(); return b, a",
    ),
    "walrus in the default of a method": (
        "def f():\n    a = 1; b = 2\n    class C:\n        def m(self, x=(a := 5)): ...\n    return C.a",
        "def f():\n    a = 1; b = 2\n    class C:\n        def m(self, x=(b := 5)): ...\n    return C.b",
    ),
    "walrus of a lambda": (
        "def f(x):\n    return [lambda: (a := b) for b in x], a",
        "def f(x):\n    return [lambda: (c := b) for b in x], c",
    ),
    "annotation": (
        "from __future__ import annotations\ndef f():\n    a = float\n    def g(x: a): ...\n    return g",
        "from __future__ import annotations\ndef f():\n    b = float\n    def g(x: b): ...\n    return g",
    ),
    "mangled name": (
        "class C:\n    def m(self):\n        __a = 1\n        return _C__a",
        "class C:\n    def m(self):\n        __b = 1\n        return _C__a",
    ),
    "subscript in a target": (
        "def f(x):\n    b = 1; d = 2\n    return [b for x[[b for b in [7]][0]] in [5]], d",
        "def f(x):\n    d = 1; b = 2\n    return [b for x[[b for b in [7]][0]] in [5]], d",
    ),
    "default of the function itself": (
        "def f(k=a):\n    a = 1\n    return k, a",
        "def f(k=b):\n    b = 1\n    return k, b",
    ),
    "global of one function, variable of another": (
        "def f():\n    def g():\n        a = 1\n        return a\n    def h():\n        return a\n    return g, h",
        "def f():\n    def g():\n        b = 1\n        return b\n    def h():\n        return b\n    return g, h",
    ),
    "reference to vars": (
        "def f(x):\n    a = x\n    v = vars\n    return v()",
        "def f(x):\n    b = x\n    v = vars\n    return v()",
    ),
    "vars of nothing": ("def f(x):\n    a = x\n    return vars(*[])", "def f(x):\n    b = x\n    return vars(*[])"),
    "frame of an error": (
        "def f(x):\n    a = x\n    try: g()\n    except E as e: return e.__traceback__",
        "def f(x):\n    b = x\n    try: g()\n    except E as e: return e.__traceback__",
    ),
    "closure": (
        "def f(x):\n    a = x\n    b = 1\n    def g(): return a, b\n    return g.__closure__[0]",
        "def f(x):\n    b = x\n    a = 1\n    def g(): return b, a\n    return g.__closure__[0]",
    ),
    "use of the registered name": (
        "@attack(norms=('l2',), passes='')\ndef p(t, x, y, h): ...\ndef f(): return p",
        "@attack(norms=('l2',), passes='')\ndef q(t, x, y, h): ...\ndef f(): return p",
    ),
    "format": ("def f(x):\n    a = x\n    return f'{a=}'", "def f(x):\n    b = x\n    return f'{b=}'"),
    "norms": (
        "@attack(norms=('l2',), passes='')\ndef f(t, x, y, h): ...",
        "@attack(norms=('linf',), passes='')\ndef f(t, x, y, h): ...",
    ),
    "keyword of another decorator": ("@mine(passes='a')\ndef f(): ...", "@mine(passes='b')\ndef f(): ..."),
}


def sha(text: str) -> str:
    return syntax(text.encode()).sha


@pytest.mark.parametrize("pair", SAME)
def test_what_a_local_variable_is_called_changes_no_hash(pair):
    one, other = SAME[pair]
    assert one != other
    assert sha(one) == sha(other)


@pytest.mark.parametrize("pair", OTHER)
def test_what_does_something_else_has_another_hash(pair):
    one, other = OTHER[pair]
    assert sha(one) != sha(other)


def local_variables(table: symtable.SymbolTable) -> tuple[set[str], set[str]]:
    """Return names that are local variables of functions only, and all others, as the compiler sees them."""
    local, other = set(), set()
    for symbol in table.get_symbols():
        is_variable = table.get_type() == "function" and (symbol.is_local() or symbol.is_free())
        named = symbol.is_parameter() or symbol.is_imported() or symbol.is_namespace()
        (local if is_variable and not named else other).add(symbol.get_name())
    for child in table.get_children():
        inside, others = local_variables(child)
        local |= inside
        other |= others
    return local - other, other


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_variables_that_the_compiler_calls_local_can_be_renamed(path):
    text = path.read_text()
    tree = ast.parse(text)
    local, _ = local_variables(symtable.symtable(text, str(path), "exec"))
    standing_alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in standing_alone]
    free = sorted(name for name in local if not any(name in text for text in texts if isinstance(text, str)))
    renamed = {name: f"renamed_{number}" for number, name in enumerate(random.Random(0).sample(free, len(free)))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = renamed.get(node.id, node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            node.name = renamed.get(node.name, node.name)
        elif isinstance(node, ast.Nonlocal):
            node.names = [renamed.get(name, name) for name in node.names]
    assert sha(ast.unparse(tree)) == sha(text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_use_of_another_variable_changes_the_hash(path):
    text = path.read_text()
    draws = random.Random(1)
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    for index in draws.sample(range(len(functions)), min(8, len(functions))):
        tree = ast.parse(text)
        function = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)][index]
        nodes = chain.from_iterable(map(ast.walk, function.body))
        uses = [node for node in nodes if isinstance(node, ast.Name)]
        others = sorted({node.id for node in uses})
        loads = [node for node in uses if isinstance(node.ctx, ast.Load)]
        if len(others) > 1 and loads:
            use = draws.choice(loads)
            use.id = draws.choice([name for name in others if name != use.id])
            assert sha(ast.unparse(tree)) != sha(text), (function.name, use.id)


def test_a_helper_that_reads_the_variables_of_its_caller_keeps_their_names(tmp_path):
    attack = "from helper import variables\ndef f(x):\n    {0} = x\n    return variables()\n"
    hashes = set()
    for name, helper in itertools.product("ab", ["variables = dict\n", "import sys\nvariables = sys._getframe\n"]):
        (tmp_path / "helper.py").write_text(helper)
        (tmp_path / "mine.py").write_text(attack.format(name))
        hashes.add(code_of(tmp_path / "mine.py", Path().resolve()).sha)
    # One for both names beside the harmless helper, and one for each beside the other.
    assert len(hashes) == 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has type parameters since 3.12")
def test_type_parameters_keep_the_names_of_variables():
    one = "def f():\n    T = int; S = str\n    def g[T](y: T): ...\n    return g, T"
    assert sha(one) != sha(one.replace("T = int; S = str", "S = int; T = str"))


def test_the_registered_sources_are_there():
    assert len(SOURCES) > 40
