"""Results in git: one file for each machine and commit, one cell a line, readable again from any commit.

    results/runs/<machine>/<commit>.json

The first line says which schema the file has; every further line is a result as the store keeps it, with its own
checksum, so that a cut or merged file is noticed. Lines are sorted by name and key and carry the outcome of every
example as bits, so two commits are compared image by image from git alone.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bench.keys import canonical_json, sha256_hex
from bench.provenance import source
from bench.store import Store, read_result, write_atomically
from bench.types import CellResult, UsageError, jsonable

#: Of the file as a whole; each line also has the schema of a result.
SCHEMA = 1

RUNS = Path("results") / "runs"


class Recorded(NamedTuple):
    """Results and what they are called: a commit, a file or a store."""

    name: str
    results: list[CellResult]
    #: What was left out and why, one line each.
    notes: tuple[str, ...] = ()


def write_run(results: Iterable[CellResult], root: Path) -> Path:
    """Write what holds for the code as it is now to ``root/results/runs/<machine>/<commit>.json``; return the file.

    A cell whose code did not change since an earlier commit belongs to this one too, with the provenance that it has.
    What the file held before stays, but for the same cells. With uncommitted changes it is called ``<commit>-dirty``,
    outside a checkout ``no-commit``.

    Raises:
        UsageError: the file is there and cannot be read, or cannot be written.
    """
    commit, dirty = source()
    machine = re.sub(r"[^A-Za-z0-9_.-]+", "-", platform.node()).strip(".-") or "unnamed"
    path = root / RUNS / machine / f"{commit or 'no-commit'}{'-dirty' if dirty else ''}.json"
    before = parse(path.read_text(encoding="utf-8"), str(path)) if path.exists() else []
    try:
        write_atomically(path, serialise([*before, *results]).encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return path


def serialise(results: Iterable[CellResult]) -> str:
    """Return results as the text of a run file; of two with one key the later one."""
    unique = {r.key: r for r in results}
    lines = [canonical_json({"format": "crossfire-run", "schema": SCHEMA})]
    for r in sorted(unique.values(), key=lambda r: (str(r.names), r.cell.seed, r.key)):
        body = jsonable(r)
        lines.append(canonical_json({**body, "sha256": sha256_hex(canonical_json(body))}))
    return "\n".join(lines) + "\n"


def parse(text: str, name: str) -> list[CellResult]:
    """Return the results in the text of a run file.

    Raises:
        UsageError: it is no run file, of a newer schema, or one of its lines is damaged.
    """
    first, *lines = text.splitlines() or [""]
    try:
        head = json.loads(first)
        schema = head["schema"] if head["format"] == "crossfire-run" else None
    except (ValueError, KeyError, TypeError):
        schema = None
    if schema is None:
        raise UsageError(f"{name} is no run file of Crossfire: its first line does not say so")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UsageError(f"{name} has schema {schema}, this version reads up to {SCHEMA}: update Crossfire")
    results = []
    for number, line in enumerate(lines, start=2):
        try:
            results.append(read_result(line))
        except ValueError as error:
            raise UsageError(f"{name}, line {number}: {str(error).splitlines()[0]}") from None
    return results


def read(what: str | Path, *, repository: Path | None = None) -> Recorded:
    """Return the results of a store, a run file, or a commit (``abc123``, ``main``, ``HEAD~1``) recorded in git.

    A commit means its own run files. They are looked for in the working tree and in what the commit and HEAD hold,
    since results of a commit can only be committed after it.

    Raises:
        UsageError: ``what`` is none of these, or holds no results.
    """
    path = Path(what)
    if path.is_file():
        try:
            found = Recorded(str(what), parse(path.read_text(encoding="utf-8"), str(what)))
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"{what} cannot be read as text") from None
    elif (path / "cells").is_dir() or (path.is_dir() and not _is_commit(str(what), repository)):
        found = _read_store(path)
    elif isinstance(what, Path):
        raise UsageError(f"no store at {what}: run first, or name another with --store")
    else:
        found = _read_commit(what, repository or Path.cwd())
    if not found.results:
        raise UsageError(
            f"{what} holds no results" + (f" ({'; '.join(found.notes)})" if found.notes else ": run something first")
        )
    return found


def _read_store(root: Path) -> Recorded:
    files = {path.stem for path in (root / "cells").glob("*.json")}
    results = list(Store(root).results())
    damaged = sorted(files - {r.key for r in results})
    notes = (
        (f"{len(damaged)} damaged result files in {root} are left out: {', '.join(key[:12] for key in damaged[:3])}",)
        if damaged
        else ()
    )
    return Recorded(str(root), results, notes)


def _read_commit(name: str, repository: Path) -> Recorded:
    commit = _git(repository, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    top = _git(repository, "rev-parse", "--show-toplevel")
    if commit is None or top is None:
        raise UsageError(f"'{name}' is no commit, run file or store here")
    root, suffix = Path(top), f"/{commit}.json"
    texts = {str(path): path.read_text(encoding="utf-8") for path in sorted((root / RUNS).glob(f"*/{commit}.json"))}
    for tree in ("HEAD", commit):
        for path in (_git(root, "ls-tree", "-r", "--name-only", tree, f"{RUNS.as_posix()}/") or "").splitlines():
            if path.endswith(suffix) and str(root / path) not in texts:
                texts[str(root / path)] = _git(root, "show", f"{tree}:{path}") or ""
    if not texts and any((root / RUNS).glob(f"*/{commit}-dirty.json")):
        raise UsageError(
            f"commit {commit[:10]} ('{name}') only has results with uncommitted changes; name their file to use it"
        )
    if not texts:
        raise UsageError(
            f"commit {commit[:10]} ('{name}') has no results in {RUNS.as_posix()}; record some with run --record"
        )
    return Recorded(f"{name} ({commit[:10]})", [r for path, text in texts.items() for r in parse(text, path)])


def _is_commit(name: str, repository: Path | None) -> bool:
    return _git(repository or Path.cwd(), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") is not None


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, encoding="utf-8", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
