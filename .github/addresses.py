"""Writes the addresses of the repository that releases into what it releases, and how to install it from the index.

Run by release.yml, in its own checkout, before the build:

    python .github/addresses.py REPOSITORY TAG PAGES

The package index shows README.md away from the repository, so links and pictures there become absolute, at the tag.
Its readers have no checkout: the page begins with `pip install`, and commands are those of the installed package.
pyproject.toml gets [project.urls]. Nothing here names a host; a fork that releases points to itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# `[text](target)` and `![text](target)`, but no address, no anchor of the page itself.
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")
# The command of a checkout, but where a line installs the checkout itself.
_COMMAND = re.compile(r"(?<![\w/])python run_bench\.py")
_CHECKOUT = "## Two commands\n"
_INSTALL = """## Install

```sh
pip install crossfire-bench
crossfire run quick   # from nothing to a leaderboard
```

## From a checkout

In a checkout of [the repository]({repository}/tree/{tag}) two commands do it:
"""


def installed(text: str, repository: str, tag: str) -> str:
    """Return the README for who has no checkout.

    Raises:
        ValueError: the README has no section that this one can stand before.
    """
    if text.count(_CHECKOUT) != 1:
        raise ValueError(f"README.md has no section {_CHECKOUT.strip()!r}, where the index says how to install")
    text = text.replace(_CHECKOUT, _INSTALL.format(repository=repository, tag=tag))
    return _COMMAND.sub("crossfire", text)


def readme(text: str, repository: str, tag: str) -> str:
    """Return a Markdown text whose links and pictures lead to a tag of a repository."""

    def absolute(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        view = "raw" if mark else "blob"
        return f"{mark}[{words}]({repository}/{view}/{tag}/{target})"

    return _LINK.sub(absolute, text)


def urls(repository: str, tag: str, pages: str) -> str:
    """Return the table of addresses in the metadata of the package."""
    addresses = {
        "Homepage": repository,
        "Documentation": pages,
        "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }
    return "\n[project.urls]\n" + "".join(f'{name} = "{address}"\n' for name, address in addresses.items())


def main(repository: str, tag: str, pages: str) -> None:
    """Change README.md and pyproject.toml."""
    page, project = _ROOT / "README.md", _ROOT / "pyproject.toml"
    text = installed(page.read_text(encoding="utf-8"), repository, tag)
    page.write_text(readme(text, repository, tag), encoding="utf-8")
    project.write_text(project.read_text(encoding="utf-8") + urls(repository, tag, pages), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
