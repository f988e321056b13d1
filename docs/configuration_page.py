"""docs/configuration.md, written from what checks a configuration; and its JSON Schema beside it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from bench.cli.schema import FILE_NAME, schema_text
from bench.config import sections
from bench.config.described import described
from bench.config.schema import keys
from bench.types import Schedule

_INTRODUCTION = """# The configuration

A configuration is a TOML file that describes one table: images, networks, rows (defenses) and columns (attacks). This
page lists every key. It is written by `python docs/configuration_page.py` from what checks a configuration.

```sh
python run_bench.py init                      # a commented my-table.toml that runs as it is
python run_bench.py list --long pgd           # every parameter of an attack, a defense or a network
python run_bench.py plan my-table.toml        # checks the file and says what run would do
```

**In an editor.** `init` also writes `crossfire.schema.json`, a JSON Schema with the parameters of every method that is
installed, and names it in the first line of the file: `#:schema ./crossfire.schema.json`. Editors with a TOML language
server then complete keys and mark wrong ones. `python run_bench.py schema --out FILE` writes it again.
[The schema](crossfire.schema.json) of the methods that come with Crossfire is part of these pages.

**Numbers and budgets.** A budget is in pixels of [0, 1]. Write it as a text to be exact: `"8/255"`. Unknown keys,
values out of range and `true` for a number are errors: one line, exit code 2, before any work.

**Sweeps.** A list in place of a parameter of a network, a defense or an attack, or of `eps`, makes one row or column
for each value, for all combinations of several lists.

"""
_MERGING = """## How files, variants and options combine

From the lowest layer to the highest; a higher one wins. Tables are merged key by key, lists are replaced.

1. The file that `extends` names, relative to the current folder like every other path, with all of this list inside it.
2. The file itself.
3. Variants: `[variants.KIND.NAME]` holds settings. `--scale NAME` and `--protocol NAME` choose those of these kinds.
   Without the flag, the variant applies that the file names in `default`, and none if it names none.
4. `--epochs N`.
5. `--set KEY=VALUE`, in the order in which they are given. The path has dots, and names an entry of a list by its `use`
   or `arch` (all entries of that name) or by its number from 0; the value is TOML, or any other text as it is.

```sh
python run_bench.py run my-table.toml --set attacks.pgd.steps=50 --set dataset.n=1000 --set run.device=cpu
python run_bench.py run my-table.toml --set 'defenses.jpeg.quality=[50, 75]' --set attacks.0.eps=4/255
```

`[attack]` and `[train]` lie below the entries: `[attack]` gives a setting to every attack that knows it,
`[attack.pgd]` to PGD, and an entry of `[[attacks]]` has the last word. `[train]` does the same for recipes, and
`train = { ... }` in an entry of `[[defenses]]` has the last word. A `preset` of a method comes before all of these.

`include = ["quick", "my-table.toml"]` runs several configurations as one plan, in which what they share is done once.
Such a file has only `schema`, `name`, `summary`, `include` and `[run]`. Options apply to each of its configurations;
`--set` changes the entries that it names wherever they are.

```toml
schema = 1
name = "mine"
extends = "quick"
default = { scale = "small" }

[variants.scale.small]
dataset = { n = 50 }

[variants.scale.full]
dataset = { n = 400 }
```

"""
_SECTIONS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("Top level", sections.Config, ""),
    ("`[dataset]`", sections.DatasetConfig, "[Add a dataset](add-a-dataset.md) explains splits, classes and order."),
    ("`[[models]]`", sections.ModelConfig, ""),
    ("`[[defenses]]`", sections.DefenseConfig, "A recipe also takes the keys of `[train]`."),
    ("`[[attacks]]`", sections.AttackConfig, "[Attacks](attacks.md) lists their parameters."),
    (
        "`[train]`",
        Schedule,
        "How a recipe is trained. A recipe's own parameters stand beside these, and a recipe may have other defaults.",
    ),
    ("`[run]`", sections.RunConfig, ""),
)
#: Keys of the top level that are sections of their own.
_TABLES = frozenset({"dataset", "models", "defenses", "attacks", "run"})
_LAYERS = """| `extends` | text |  | a preset or file that this one is laid over |
| `default` | table |  | of a kind of variant, the one that applies where no flag chooses |
| `variants` | table |  | `[variants.KIND.NAME]`: settings that a flag lays over the file |
"""


def configuration_page() -> str:
    """Return the page as Markdown."""
    parts = [_section(title, model, text) for title, model, text in _SECTIONS]
    return _INTRODUCTION + _MERGING + "\n".join(parts)


def _section(title: str, model: type[BaseModel], text: str) -> str:
    summary = " ".join((model.__doc__ or "").split()) if model is not Schedule else ""
    lines = [f"## {title}\n", *([f"{summary} {text}".strip() + "\n"] if summary or text else [])]
    lines += ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
    for key in described(keys(model)):
        if model is sections.Config and key.name in _TABLES:
            continue
        values = f"{key.values} ({key.unit})" if key.unit else key.values
        default = f"`{key.default}`" if key.default else ""
        lines.append(f"| `{key.name}` | {values} | {default} | {key.text} |")
    rest = _LAYERS if model is sections.Config else ""
    return "\n".join(lines) + "\n" + rest


if __name__ == "__main__":
    folder = Path(__file__).parent
    for name, content in (("configuration.md", configuration_page()), (FILE_NAME, schema_text())):
        (folder / name).write_text(content, encoding="utf-8")
        print(folder / name)
