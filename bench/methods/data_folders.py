"""Folders of data that parameters of a method name, or that an installed package has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from bench.methods import sources
from bench.types import Frozen, UsageError


class DataFolder(Frozen):
    """A folder that a parameter names.

    Attributes:
        parameter: its name.
        choice: of other parameters, that needs the folder.
        files: which are read of it.
        package: the folder of an installed package that is taken where none is named.
    """

    parameter: str
    choice: Mapping[str, str] = Field(min_length=1)
    files: tuple[str, ...] = Field(min_length=1)
    package: str = Field(pattern="^[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*$")

    @property
    def installed(self) -> str:
        """The name of the package."""
        return self.package.partition("/")[0]

    def needed(self, values: Mapping[str, Any]) -> bool:
        """Say whether parameters make the choice that needs the folder."""
        return all(values.get(name) == chosen for name, chosen in self.choice.items())

    def find(self, named: str, installation: str) -> Path:
        """Return the folder.

        Args:
            named: what the parameter says; empty where nothing.
            installation: the command that installs the package.

        Raises:
            UsageError: the folder, or a file in it, is not there, or the package is not installed.
        """
        folder = Path(os.path.expanduser(named)) if named else self._of_package()
        choice = ", ".join(f"{name} = '{chosen}'" for name, chosen in self.choice.items())
        if folder is None:
            raise UsageError(
                f"{choice} needs the {self.parameter} of a package: {installation}; or name a folder that has "
                f'{", ".join(self.files)}: {self.parameter} = "DIR"'
            )
        if not os.path.isdir(folder):
            raise UsageError(f"{self.parameter}: no folder {folder.absolute()}")
        if missing := [name for name in self.files if not os.path.isfile(folder / name)]:
            raise UsageError(f"{self.parameter}: {folder.absolute()} has no {', '.join(missing)}")
        return folder

    def _of_package(self) -> Path | None:
        spec = sources.find_top(self.installed)
        places = [] if spec is None else spec.submodule_search_locations or []
        return next((Path(place, *self.package.split("/")[1:]) for place in places), None)

    def contents(self, folder: Path) -> Iterator[str]:
        """Yield the name and the hash of each file that is read.

        Raises:
            UsageError: one cannot be read.
        """
        for name in self.files:
            sha = sources.content(name, [folder])
            if sha is None:
                raise UsageError(f"{self.parameter}: {folder / name} cannot be read")
            yield from (name, sha)


def declared(meta: Mapping[str, Any]) -> list[DataFolder]:
    """Return the folders that the decorator of a method declares.

    Raises:
        ValueError: one is declared in another way; the text says which and how.
    """
    folders: Mapping[str, Mapping[str, Any]] = meta.get("folders") or {}
    declarations = []
    for parameter, each in folders.items():
        try:
            declarations.append(DataFolder.model_validate({**each, "parameter": parameter}))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{parameter}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return declarations
