"""The command: `python -m bench`, and `gradstep bench`, which is short and writes no files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gradstep as gs

from . import compare, machine, peers, report
from .instructions import count_instructions
from .measure import Rules
from .options import CALLS, parser, reproducing
from .progress import Progress
from .report import Picture, Report
from .runner import Result, run, threads_of_blas
from .steps import spaced
from .suites import SUITES, Choice
from .targets import verdicts

PATIENCE, QUICK_PATIENCE = 3.0, 0.1  # seconds of a call; a slower one is not timed
LARGE = 1 << 25
# Other settings of theirs are faster. PyTorch's default stays: it is what most people run.
# Beyond LARGE parameters they are left out always: twelve copies of those would fill 24 GiB.
NOT_QUICK = ("NumPy reference", "numba default", "optax default", "torch foreach", "bitsandbytes")


def main(
    argv: Sequence[str] | None = None,
    rules: Rules | None = None,
    *,
    short: bool = False,
    program: str = "python -m bench",
) -> int:
    """Measures and reports.

    argv: the arguments, those of the process unless given. short: whether to do little by default.
    Returns 1 if a peer gave wrong results or failed, 2 for a file that cannot be read or written,
    else 0. Raises SystemExit for bad arguments.
    """
    arguments = parser(program, short).parse_args(argv)
    if arguments.compare and len(arguments.compare) > 2:
        parser(program, short).error("argument --compare: expected one file or two")
    try:
        return _run(arguments, rules)
    except (ValueError, OSError) as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace, rules: Rules | None) -> int:
    before = [compare.load(file) for file in arguments.compare or ()]
    if len(before) == 2:
        print(_comparison(arguments, *before), end="")
        return 0
    for file in (arguments.output and arguments.output / "report.md", arguments.json):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    patience = QUICK_PATIENCE if arguments.quick else PATIENCE
    found = _measure(arguments, rules or Rules(patience=patience))
    if arguments.output is not None:
        found = replace(found, pictures=_draw(found.results, arguments.output))
        (arguments.output / "report.md").write_text(report.markdown(found), encoding="utf-8")
    data = report.as_json(found)
    if arguments.json is not None:
        text = json.dumps(data, indent=1, ensure_ascii=False)
        arguments.json.write_text(f"{text}\n", encoding="utf-8")
    print(report.brief(found) if arguments.short else report.markdown(found), end="")
    for old in before:
        print(f"\n{_comparison(arguments, old, data)}", end="")
    return int(any(row.broken for result in found.results for row in result.rows))


def _measure(arguments: argparse.Namespace, rules: Rules) -> Report:
    with gs.threads(arguments.threads), threads_of_blas(arguments.threads) as limited:
        chosen = peers.load(arguments.peers)
        header = machine.describe(chosen, rules.rounds, limited, reproducing(arguments))
        where = "in a quick run" if arguments.quick else f"beyond {spaced(LARGE)} parameters"
        header[f"left out {where}"] = ", ".join(NOT_QUICK)
        for line in (f"{key}: {value}" for key, value in header.items()):
            print(line, file=sys.stderr)
        results = _time(arguments, chosen, rules)
        counts = count_instructions() if CALLS in arguments.suite else None
    commands = {suite: reproducing(arguments, suite) for suite in arguments.suite}
    return Report(header, results, verdicts(results), commands, counts)


def _time(
    arguments: argparse.Namespace, chosen: Sequence[peers.Peer], rules: Rules
) -> list[Result]:
    choice = Choice(arguments.optimizers, arguments.sizes, arguments.quick)
    works = [
        (suite, work)
        for suite in arguments.suite
        if suite != CALLS
        for work in SUITES[suite](choice)
        if arguments.only in work.name
    ]
    if not works and arguments.suite != (CALLS,):
        raise ValueError(f"--only: {arguments.only!r} is in no name of the chosen suites")
    progress = Progress([work for _, work in works])
    results: list[Result] = []
    for suite, work in works:
        few = arguments.quick or work.elements > LARGE
        results.append(run(suite, work, chosen, rules, NOT_QUICK if few else ()))
        best = [
            f"{r.name} {report.duration(r.timing.median)}" for r in results[-1].rows if r.timing
        ]
        progress.done(f"{work.name}: {', '.join(best)}")
    return results


def _draw(results: Sequence[Result], folder: Path) -> list[Picture]:
    if find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed", file=sys.stderr)
        return []
    from .plots import draw

    return draw(results, folder)


def _comparison(arguments: argparse.Namespace, old: compare.Run, new: compare.Run) -> str:
    return report.comparison(*compare.changes(old, new), str(arguments.compare[0]))


if __name__ == "__main__":
    sys.exit(main())
