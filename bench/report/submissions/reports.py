"""What checks of this side have shown: reports of ``verify``, by the name of the receipt that they are about.

Nobody signs a report, so it is worth what its folder is worth: among the submissions, to which anybody may add, none
counts. It is bound to the SHA-256 of the receipt and to the version of the harness that made it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bench.keys import EVALUATION_VERSION
from bench.store import files
from bench.store.reading import document
from bench.types import UsageError
from bench.visible import visible

#: Bytes of a report.
_MAX_REPORT = 2**24
_REPEATED = ("clean answers", "adversarial answers")
_HOLDS = ("holds", "round-off")
_LONGEST_LINE = 600


class Shown(NamedTuple):
    """What a check has shown of a receipt.

    Attributes:
        refuted: the first thing that does not hold, in one line; ``None`` where all holds that was looked at.
        is_repeated: whether every prediction was made again, and came out as stated.
        are_images_known: whether the clean images were compared with their set.
        unrepeated: why predictions were not made again; empty where they were.
        other_code: the methods of which the code here is another.
        given: the SHA-256 of each file of weights that was there.
        are_halved: whether they were weights in half precision.
        is_corrupted: whether its images are those that its common corruption makes.
    """

    refuted: str | None
    is_repeated: bool
    are_images_known: bool
    unrepeated: str
    other_code: str
    given: frozenset[str] = frozenset()
    are_halved: bool = False
    is_corrupted: bool = False

    @property
    def lacks_weights(self) -> bool:
        """Whether weights that come later may show more: none were there, or only some in half precision.

        What contradicts itself is refuted with any.
        """
        return self.are_halved or (self.refuted is None and bool(self.unrepeated))

    @property
    def words(self) -> str:
        """What is known of the predictions."""
        if not self.is_repeated:
            return f"consistent, not repeated ({self.unrepeated})"
        return "predictions repeated" + (", with weights in half precision" if self.are_halved else "")


def path_of(folder: Path, sha256: str) -> Path:
    """Return the file of the report on a receipt."""
    return folder / f"{sha256}.json"


def written(report: dict[str, Any], version: str, given: Iterable[str]) -> bytes:
    """Return the file of a report by this version; ``given`` are hashes of the weights that were there."""
    body = {**report, "harness": version, "evaluation": EVALUATION_VERSION, "given": sorted(given)}
    return json.dumps(body, indent=2, sort_keys=True).encode() + b"\n"


def read(folder: Path, sha256: str, version: str) -> Shown | None:
    """Return what a check of this version has shown of a receipt; ``None`` where there is no such report."""
    try:
        body = document(files.read(path_of(folder, sha256), _MAX_REPORT))
    except (OSError, ValueError):
        return None
    expected = {"receipt": sha256, "harness": version, "evaluation": EVALUATION_VERSION}
    if not isinstance(body, dict) or any(body.get(name) != value for name, value in expected.items()):
        return None
    findings = body.get("findings")
    if body.get("format") != "crossfire-verification" or not isinstance(findings, list):
        return None
    given = body.get("given")
    known = frozenset(each for each in given if isinstance(each, str)) if isinstance(given, list) else frozenset()
    return shown([each for each in findings if isinstance(each, dict)])._replace(given=known)


def shown(findings: list[dict[str, Any]]) -> Shown:
    """Return what the findings of a report come to."""
    states = {each.get("check"): each.get("state") for each in findings}
    refuted = next((str(each.get("line")) for each in findings if each.get("state") == "refuted"), None)
    # Of a sample the accuracy is only said.
    is_whole = states.get("accuracy") == "holds"
    is_repeated = is_whole and all(states.get(check) in _HOLDS for check in _REPEATED)
    lines = {str(each.get("check")): _line(each.get("line")) for each in findings}
    other_code = re.match(r"other code here: ([^;]*)", lines.get("code", ""))
    return Shown(
        None if refuted is None else _line(refuted),
        is_repeated and refuted is None,
        states.get("images") == "holds",
        lines.get("weights", "") if states.get("weights") == "not checked" else "",
        other_code[1] if other_code else "",
        are_halved=states.get("weights") == "said",
        is_corrupted=states.get("corruption") == "holds",
    )


def _line(text: object) -> str:
    return visible(re.sub(r"\s+", " ", str(text)))[:_LONGEST_LINE]


def require_apart(submissions: Path, verified: Path, option: str) -> None:
    """Raises UsageError: reports would lie where submitters may write, and could be forged; ``option`` named them."""
    inside, outside = verified.resolve(), submissions.resolve()
    if inside == outside or outside in inside.parents:
        raise UsageError(
            f"{option} {verified} lies within {submissions}: whoever may add a submission could add reports; choose a "
            "folder that only you write to"
        )
