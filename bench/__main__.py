"""The command: `python -m bench`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import gradstep as gs

from . import machine, peers, report
from .measure import Rules
from .runner import Result, run, threads_of_blas
from .suites import SUITES, Choice
from .targets import Verdict, verdicts

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None, rules: Rules | None = None) -> int:
    """Measures and reports.

    argv: the arguments, those of the process unless given. Returns 1 if a peer gave wrong results
    or failed, else 0. Raises SystemExit for bad arguments.
    """
    rules = rules or Rules()
    arguments = _parser().parse_args(argv)
    for file in (arguments.output / "report.md", arguments.json):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    with gs.threads(arguments.threads), threads_of_blas(arguments.threads) as limited:
        chosen = peers.load(arguments.peers)
        header = machine.describe(chosen, rules.rounds, limited)
        for line in (f"{key}: {value}" for key, value in header.items()):
            print(line, file=sys.stderr)
        results = _measure(arguments, chosen, rules)
    judged = verdicts(results)
    plots = _plots(results, arguments.output)
    text = report.markdown(header, results, judged, plots)
    (arguments.output / "report.md").write_text(text, encoding="utf-8")
    if arguments.json is not None:
        _write_json(arguments.json, header, results, judged)
    print(text, end="")
    return int(any(row.broken for result in results for row in result.rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Compare gradstep with other optimizers."
    )
    parser.add_argument("--suite", type=_names(SUITES), default=tuple(SUITES), metavar="NAMES")
    parser.add_argument("--optimizers", type=_names(gs.OPTIMIZERS), metavar="NAMES")
    parser.add_argument("--sizes", type=_sizes, metavar="N,N,...", help="of single tensors")
    parser.add_argument(
        "--peers",
        type=_names(peers.all_names()),
        metavar="NAMES",
        help=f"beside {' and '.join(peers.ALWAYS)}, which are always measured; all unless given",
    )
    parser.add_argument("--threads", type=_positive, default=gs.get_num_threads(), metavar="N")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and models")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round, as JSON")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER")
    return parser


def _names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of names separated by commas, each of which must be known."""
    names = tuple(known)

    def parse(text: str) -> tuple[str, ...]:
        for name in text.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r}, expected some of {','.join(names)}")
        return tuple(dict.fromkeys(text.split(",")))

    return parse


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected an integer >= 1")
    return int(text)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(_positive, text.split(",")))


def _measure(
    arguments: argparse.Namespace, chosen: Sequence[peers.Peer], rules: Rules
) -> list[Result]:
    choice = Choice(arguments.optimizers, arguments.sizes, arguments.quick)
    works = [(suite, work) for suite in arguments.suite for work in SUITES[suite](choice)]
    results: list[Result] = []
    for number, (suite, work) in enumerate(works, 1):
        results.append(run(suite, work, chosen, rules))
        best = [
            f"{r.name} {report.duration(r.timing.median)}" for r in results[-1].rows if r.timing
        ]
        print(f"[{number}/{len(works)}] {work.name}: {', '.join(best)}", file=sys.stderr)
    return results


def _plots(results: Sequence[Result], folder: Path) -> dict[str, str]:
    if find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed", file=sys.stderr)
        return {}
    from .plots import draw

    return draw(results, folder)


def _write_json(
    file: Path, header: dict[str, str], results: Sequence[Result], judged: Sequence[Verdict]
) -> None:
    text = json.dumps(report.as_json(header, results, judged), indent=1, ensure_ascii=False)
    file.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
