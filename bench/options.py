"""The arguments of `python -m bench` and `gradstep bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import gradstep as gs

from . import peers
from .suites import SUITES

__all__ = ["CALLS", "parser", "reproducing"]

CALLS = "calls"  # a suite without times: instructions of a call
RESULTS = Path(__file__).parent / "results"


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        print(f"{self.prog}: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


def parser(program: str, short: bool) -> Parser:
    """short: whether a quick run that writes no files is what happens without arguments."""
    parser = Parser(
        prog=program,
        allow_abbrev=False,
        description="Measure gradstep, other libraries and the limit of the memory side by side.",
    )
    add = parser.add_argument_group("what is measured").add_argument
    suites = (*SUITES, CALLS)
    add("--suite", type=_names(suites), default=suites, metavar="NAMES", help=", ".join(suites))
    add("--only", default="", metavar="TEXT", help="works with this in their name")
    add("--optimizers", type=_names(gs.OPTIMIZERS), metavar="NAMES")
    add("--sizes", type=_sizes, metavar="N,N,...", help="of single tensors")
    add(
        "--peers",
        type=_names(peers.all_names()),
        metavar="NAMES",
        help=f"beside {' and '.join(peers.ALWAYS)}, which are always measured: "
        f"{', '.join(n for n in peers.all_names() if n not in peers.ALWAYS)}; all unless given",
    )
    add(
        "--threads", type=_positive, default=gs.get_num_threads(), metavar="N", help="[%(default)s]"
    )
    quick = argparse.BooleanOptionalAction
    add("--quick", action=quick, default=short, help="fewer sizes, models and functions")
    add = parser.add_argument_group("what becomes of it").add_argument
    output = None if short or __package__ != "bench" else RESULTS
    where = "a report with pictures" + (f" [{RESULTS}]" if output else "; none unless given")
    add("--output", type=Path, default=output, metavar="FOLDER", help=where)
    add("--json", type=Path, metavar="FILE", help="every round, as JSON")
    add(
        "--compare",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="what moved since that --json; with two files, from the first to the second, "
        "without measuring",
    )
    parser.set_defaults(program=program, short=short)
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


def reproducing(arguments: argparse.Namespace, suite: str | None = None) -> str:
    """The command that measures the same again, or only this suite of it."""
    words = [arguments.program]
    chosen = arguments.suite if suite is None else (suite,)
    if set(chosen) != {*SUITES, CALLS}:
        words.append(f"--suite {','.join(chosen)}")
    if arguments.only:
        words.append(f"--only {arguments.only!r}")
    for name in ("optimizers", "sizes", "peers"):
        values = getattr(arguments, name)
        if values is not None:
            words.append(f"--{name} {','.join(map(str, values))}")
    if arguments.quick != arguments.short:
        words.append("--quick" if arguments.quick else "--no-quick")
    return " ".join([*words, f"--threads {arguments.threads}"])
