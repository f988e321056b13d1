"""docs/attacks.md, written from what the registry reads in the attacks' own files."""

from __future__ import annotations

from typing import Any

from bench.config.described import described
from bench.config.schema import parameters
from bench.methods import docstrings
from bench.registry import Entry, entries
from bench.types import NORMS

#: As in tables, but that a corruption has no norm.
_NORMS = NORMS | {"corruption": "none"}
_NEEDS = {"gradient": "gradients", "scores": "logits", "labels": "labels", "nothing": "nothing"}
_INTRODUCTION = """# Attacks

Each attack is one file in `attacks/`; this page is written from those files by `python docs/attacks_page.py`.
Pixels are in [0, 1], budgets are exact fractions such as `8/255`, and a pass is one forward or one backward pass of
the attacked network for one image. `run` counts passes and checks that every image lies in the box and in the budget.

**Success rule.** Under `any-iterate` an image keeps the first iterate that the attacked function misclassifies and
costs nothing from then on; the remaining images are gathered into full batches. Under `last-iterate` every
step is taken and the last image kept, as most libraries do. A random function always gets the latter, because one
success proves nothing there.

**Targets.** By default any wrong answer is a success. With `target` it is one class alone: `"least-likely"` or
`"second"` (the likeliest wrong one) by the logits of the attacked function on the clean image, for one forward pass
more; `"random"`; or a class by its number or name, for which images of that class stay as they are and count as
unbroken. TARGETABLE take it, and no other attack does.
[What such a column says](reading-the-tables.md#targeted-attacks).

**Presets.** `preset = "reference"` takes the settings of the attack's authors, `preset = "tpap"` those of the TPAP
paper's code; single settings given beside it win.

```toml
[[attacks]]
use = "pgd"
eps = "8/255"
preset = "reference"
```

![The same image under every attack, with the difference magnified](figures/attack-gallery.png)

Four images of CIFAR-10, and the ResNet-18 that comes inside `pyautoattack`. The picture is made by these two commands:

```sh
python run_bench.py run gallery --data DIR
python run_bench.py figures attack-gallery --data DIR --trust
```

"""


def attacks_page() -> str:
    """Return the page as Markdown: a table of all attacks, a section for each, and the adapters of other libraries."""
    attacks = entries("attack").values()
    targetable = [f"`{entry.name}`" for entry in attacks if entry.meta.get("targetable")]
    lines = ["| attack | norms | reads | passes per image |", "| --- | --- | --- | --- |"]
    lines += [
        f"| [`{entry.name}`](#{entry.name}) | {_norms(entry)} | {_NEEDS[entry.meta.get('needs', 'gradient')]} "
        f"| {entry.meta['passes'].replace(' x ', ' × ')} |"
        for entry in attacks
    ]
    sections = [_section(entry) for entry in attacks]
    sections += [
        "## Other libraries, and saved images\n",
        *(_section(entry, level="###") for entry in entries("library").values()),
    ]
    introduction = _INTRODUCTION.replace("TARGETABLE", f"{', '.join(targetable[:-1])} and {targetable[-1]}")
    return introduction + "\n".join(lines) + "\n\n" + "\n".join(sections)


def _norms(entry: Entry) -> str:
    bound = "" if entry.meta.get("bounded", True) else ", least"
    return ", ".join(_NORMS[norm] for norm in entry.meta["norms"]) + bound


def _section(entry: Entry, level: str = "##") -> str:
    said = docstrings.read(entry.doc)
    title = entry.pattern
    text = [f"{level} {title}\n", said.summary + "\n", *([said.body + "\n"] if said.body else [])]
    if (threat := said.arguments.get("threat")) and entry.kind == "attack":
        text.append(f"*Threat:* {threat}\n")
    rows = [
        f"| `{each.name}` | {_cell(each.values)} | `{each.default or 'none'}` | {_cell(each.text)} |"
        for each in described(parameters(entry))
    ]
    if rows:
        text.append(
            "\n".join(["| parameter | values | default | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"
        )
    for preset, values in (entry.meta.get("presets") or {}).items():
        shown = ", ".join(f"`{key} = {_default(value)}`" for key, value in values.items()) or "the defaults"
        text.append(f"- preset `{preset}`: {shown}")
    if entry.meta.get("presets"):
        text.append("")
    if minimises := entry.meta.get("minimises"):
        text.append(
            "Without `eps` these minimise a norm, the first unless `norm` says another: " + _minimised(minimises)
        )
    if entry.requires:
        text.append(f"Needs `{entry.installation}`.\n")
    return "\n".join(text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _minimised(minimises: dict[str, tuple[str, ...]]) -> str:
    """Return which attacks minimise which norms, those with the same norms together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, norms in minimises.items():
        groups.setdefault(norms, []).append(f"`{name}`")
    return (
        "; ".join(f"{', '.join(_NORMS[norm] for norm in norms)}: {', '.join(names)}" for norms, names in groups.items())
        + ".\n"
    )


if __name__ == "__main__":
    from pathlib import Path

    page = Path(__file__).with_name("attacks.md")
    page.write_text(attacks_page(), encoding="utf-8")
    print(page)
