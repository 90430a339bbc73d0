"""The work of a step that several processes share; they are those of `bench.distributed`."""

from __future__ import annotations

import json
import subprocess
import weakref
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from .distributed import LOCAL_BYTES, TASKS, commands
from .shapes import MODELS, count
from .work import Contender, Inputs, Ready

__all__ = ["Ranks"]

NEEDS = {"mpi": "mpi4py", "gloo": "torch"}
SMALL = "MLP 784-256-128-10"


@dataclass(frozen=True)
class Ranks:
    """AdamW on a model whose gradients several processes of this machine have parts of.

    over: "mpi" or "gloo". clip: by the norm of all gradients together.
    """

    model: str
    over: str
    clip: bool = False
    ranks: int = 2

    @property
    def name(self) -> str:
        engine = "MPI" if self.over == "mpi" else self.over
        return f"{'clipped ' * self.clip}AdamW, {self.model}, {self.ranks} ranks over {engine}"

    @property
    def elements(self) -> int:
        return count(MODELS[self.model])

    @property
    def ideal_bytes(self) -> int:
        """In memory, of all ranks."""
        return LOCAL_BYTES * self.elements

    @property
    def consumes_inputs(self) -> bool:
        return False

    def small(self) -> Ranks:
        return replace(self, model=SMALL)

    def inputs(self, seed: int) -> Inputs:
        """None: the processes have theirs."""
        return Inputs([])

    def reference(self, inputs: Inputs) -> Ready:
        """The processes compare with what the first step of AdamW must come to."""
        return Ready(lambda: None, lambda values: None, list)

    def contenders(self, ours: bool) -> list[Contender]:
        """gradstep's and the limit, or torch's; none where the engine is not installed."""
        if find_spec(NEEDS[self.over]) is None:
            return []
        return [
            Contender(task, partial(_ready, task), checked=False)
            for task in TASKS[self.over]
            if (task.endswith("torch fused")) != ours and not (self.clip and "DDP" in task)
        ]


class Team:
    """Processes that stand ready; they end with the last reference to this."""

    def __init__(self, work: Ranks) -> None:
        given = ["--serve", "--model", work.model, *["--clip"] * work.clip]
        self.processes: list[Any] = []
        for command, environment in commands(work.over, work.ranks, *given):
            first = not self.processes
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE if first else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if first else subprocess.DEVNULL,
                    text=True,
                )
            )
        self.end = weakref.finalize(self, _end, self.processes)

    def seconds(self, task: str, calls: int) -> float:
        """Of so many calls, by the slowest process. Raises RuntimeError where they ended."""
        first = self.processes[0]
        try:
            first.stdin.write(json.dumps([task, calls]) + "\n")
            first.stdin.flush()
            return float(first.stdout.readline())
        except (OSError, ValueError):
            raise RuntimeError(f"{task}: the processes ended, code {first.wait()}") from None


def _end(processes: list[Any]) -> None:
    with suppress(OSError):
        processes[0].stdin.write("\n")
        processes[0].stdin.close()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    processes[0].stdout.close()


# Contenders of one work share its processes.
TEAMS: weakref.WeakValueDictionary[Ranks, Team] = weakref.WeakValueDictionary()


def _ready(task: str, work: Ranks, inputs: Inputs) -> Ready:
    team = TEAMS.get(work) or TEAMS.setdefault(work, Team(work))
    team.seconds(task, 1)  # the step that is checked
    timed = partial(team.seconds, task)
    return Ready(partial(timed, 1), lambda values: None, list, timed)
