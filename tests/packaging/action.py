"""Runs the steps of action.yml as a runner does, without the actions that it uses.

By hand, in a repository of your own (`crossfire` and `gh` are those on the PATH):

    python -m tests.packaging.action WORKSPACE config=table.toml base=HEAD~1
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
REPOSITORY = "someone/something"
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
_NAME = re.compile(r"'[^']*'|(?:inputs|github|steps)(?:\.[\w-]+)+")


@dataclass
class Job:
    """One job of a workflow in which the action is a step."""

    workspace: Path
    temp: Path
    inputs: dict[str, str]
    event: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    log: str = ""

    @property
    def summary(self) -> str:
        """The summary of the job, as Markdown."""
        return (self.temp / "summary.md").read_text(encoding="utf-8")

    def run(self, skipped: tuple[str, ...] = ()) -> int:
        """Run every step that is a shell command, up to the first that fails, and return the exit code of the last."""
        self.inputs = {name: self._default(name) for name in ACTION["inputs"]} | self.inputs
        (self.temp / "summary.md").touch()
        for step in ACTION["runs"]["steps"]:
            if "run" not in step or step["name"] in skipped or not self._value(step.get("if", "true")):
                continue
            code = self._step(step)
            if code:
                return code
        return 0

    def _default(self, name: str) -> str:
        return self._filled(str(ACTION["inputs"][name].get("default", "")))

    def _step(self, step: dict[str, Any]) -> int:
        outputs, script = self.temp / "outputs", self.temp / "step.sh"
        outputs.write_text("", encoding="utf-8")
        script.write_text(self._filled(step["run"]), encoding="utf-8")
        environment = {
            **os.environ,
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "17",
            "GITHUB_SERVER_URL": "https://forge.example",
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary.md"),
            "RUNNER_TEMP": str(self.temp),
            **self.environment,
            **{name: self._filled(str(value)) for name, value in step.get("env", {}).items()},
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        done = subprocess.run(command, cwd=self.workspace, env=environment, capture_output=True, text=True)
        self.log += done.stdout + done.stderr
        lines = outputs.read_text(encoding="utf-8").splitlines()
        self.outputs[step.get("id", "")] = dict(line.split("=", 1) for line in lines)
        return done.returncode

    def _filled(self, text: str) -> str:
        return _EXPRESSION.sub(lambda match: str(self._value(match[1])), text)

    def _value(self, expression: str) -> object:
        """Evaluate the few operators that the action uses; what does not exist is empty, as on a runner."""
        python = _NAME.sub(lambda match: match[0] if match[0][0] == "'" else f"look({match[0]!r})", expression.strip())
        python = python.replace("||", " or ").replace("&&", " and ")
        return eval(python, {"__builtins__": {}, "look": self._look, "true": True})

    def _look(self, name: str) -> object:
        first, *rest = name.split(".")
        known: Any = {
            "inputs": self.inputs,
            "github": {"event": self.event, "repository": REPOSITORY, "token": "a-token"},
            "steps": {step: {"outputs": outputs} for step, outputs in self.outputs.items()},
        }[first]
        for part in rest:
            known = known.get(part, "") if isinstance(known, dict) else ""
        return known


def main(workspace: str, *inputs: str) -> int:
    """Run the action in a workspace with inputs such as ``config=table.toml``."""
    with tempfile.TemporaryDirectory() as temp:
        job = Job(Path(workspace), Path(temp), dict(each.split("=", 1) for each in inputs))
        code = job.run()
        print(job.log, "--- summary", job.summary, "--- outputs", job.outputs.get("compare"), sep="\n")
        print("exit code", code)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
