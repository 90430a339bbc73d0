"""Options of the commands: what may be asked, and what is refused before the work starts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from gradstep.certificate import EXPECTED
from gradstep.nn import ACTIVATIONS, INITIALISERS
from gradstep.runtime import build_info
from gradstep.train import datasets, places
from gradstep.train.datasets import MissingExtraError
from gradstep.train.loop import OPTIMIZER_NAMES, SCHEDULE_NAMES
from gradstep.train.model_file import ANEW, NOT_OPTIONS, Saved, check_extra
from gradstep.train.objectives import LOSSES
from gradstep.train.page import check_folder

__all__ = [
    "NOT_OPTIONS",
    "Parser",
    "check",
    "check_distributed",
    "check_task",
    "going_on",
    "parser",
    "resumed",
]


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors, so that `main` prints them like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with the message."""
        raise ValueError(message)


def parser(
    commands: Mapping[str, Callable[[argparse.Namespace], int]], defaults: bool = True
) -> Parser:
    """Return the parser of the whole command; commands: name -> what runs it.

    defaults: without them, it finds only what was given.
    """
    whole = Parser(prog="gradstep", description="SIMD optimizer steps for NumPy arrays.")
    version = f"gradstep {build_info()['version']}"
    whole.add_argument("--version", action="version", version=version)
    add = whole.add_subparsers(metavar="COMMAND", required=True).add_parser
    about = "show version, SIMD level, threads, compiler and extras"
    info = add("info", help=about, description=about)
    about = "measure gradstep beside the libraries that are installed"
    add("bench", help=about)  # its own parser does the rest
    about = "train a multilayer perceptron on classes or numbers, and draw its curves"
    train = add("train", help=about, description=about, allow_abbrev=False)
    _add_data_options(train)
    _add_network_options(train)
    _add_training_options(train)
    about = "say what a model of train --save expects for other rows, as CSV"
    predict = add("predict", help=about, description=about, allow_abbrev=False)
    _add_predict_options(predict)
    about = "train a small network that runs every kernel, and compare the bits of its weights"
    certify = add("certify", help=about, description=about, allow_abbrev=False)
    _add_certify_options(certify)
    subcommands = {"info": info, "train": train, "predict": predict, "certify": certify}
    for name, command in subcommands.items():
        command.set_defaults(command=commands[name])
        for action in () if defaults else command._actions:
            action.default = argparse.SUPPRESS
    return whole


def resumed(arguments: argparse.Namespace, saved: Saved) -> argparse.Namespace:
    """Return the options of a training that goes on: those it had, and what may be new.

    Raises ValueError for an option that would make it another training, or none at all.
    """
    path, given = saved.path, arguments.given
    new = {"data", "epochs", *ANEW}
    for name, value in given.items():
        known = saved.options.get(name)
        if name not in new and value != known:
            shown = "none" if known in (None, [], False) else known
            raise ValueError(f"--{name.replace('_', '-')}: {value}, expected {shown} as in {path}")
    history = saved.training["history"]
    if history["stopped_early"] or history["diverged"]:
        how = "diverged" if history["diverged"] else "stopped early"
        raise ValueError(f"--resume: the training in {path} {how}, expected one that can go on")
    options = {**vars(arguments), **saved.options}
    options |= {name: getattr(arguments, name) for name in ANEW}
    options |= {name: given[name] for name in ("data", "epochs") if name in given}
    if options["epochs"] <= saved.epochs:
        expected = f"expected more than the {saved.epochs} that {path} has"
        raise ValueError(f"--epochs: {options['epochs']}, {expected}")
    return argparse.Namespace(**options)


# Rates of these do not depend on how many epochs there will be.
ENDLESS = ("constant", "power")


def going_on(arguments: argparse.Namespace, saved: Saved) -> str:
    """Say where a training goes on, and whether its schedule is another one now."""
    line = f"goes on after epoch {saved.epochs} of {saved.path}\n"
    before, now = saved.options["epochs"], arguments.epochs
    if arguments.schedule not in ENDLESS and before != now:
        change = f"over {now} epochs from here on, over {before} before"
        line += f"          schedule {arguments.schedule} {change}\n"
    return f"          {line}"


SOURCES = (
    f"{', '.join(datasets.BUILT_IN)}, a file .npz, .csv, .tsv, .csv.gz, .tsv.gz or .parquet, "
    "or - for stdin"
)


def _add_predict_options(parser: Parser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="the file of gradstep train --save")
    add("data", metavar="DATA", help=f"{SOURCES}; with the label column or without")
    add("--label", metavar="COLUMN", help="of a table, if it is not that of the training")
    add("--header", choices=["yes", "no"], help="does it begin with names? [found out]")
    add("--output", type=_path, metavar="FILE", help="[standard output]")


def _add_certify_options(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--spec", action="store_true", help="by the specification in NumPy alone, no kernel of ours"
    )
    few = "how many [1000; 100 with --spec]"
    add("--steps", type=int, choices=[*EXPECTED], metavar="N", help=f"10, 100 or 1000: {few}")
    path = Path("gradstep-certificate.txt")
    add("--report", type=Path, metavar="FILE", default=path, help="of other bits [%(default)s]")


def _add_data_options(parser: Parser) -> None:
    share = _number(float, "a number between 0 and 1", lambda x: 0 < x < 1)
    folds = _number(int, "an integer >= 2", lambda n: n >= 2)
    shift = _number(int, "an integer >= 0", lambda n: n >= 0)
    names = _list(str.strip)
    add = parser.add_argument_group("data").add_argument
    add("--data", default="digits", metavar="SOURCE", help=f"{SOURCES} [digits]")
    add("--task", choices=datasets.TASKS, help="[found out by the labels, said]")
    add("--label", metavar="COLUMN", help="of a table: first, last, a name or an index [last]")
    add("--header", choices=["yes", "no"], help="does it begin with names? [found out, said]")
    add("--categories", type=names, default=[], metavar="A,B,...", help="columns of numbers too")
    add("--drop", type=names, default=[], metavar="A,B,...", help="columns to leave out")
    add("--missing", type=names, default=[], metavar="A,B,...", help="more words for no value")
    add("--validation", type=share, default=0.2, metavar="SHARE", help="rows held out [0.2]")
    add("--folds", type=folds, metavar="K", help="K-fold cross validation instead of one split")
    add("--overfit", type=_count, metavar="N", help="train on N rows only, to test the capacity")
    add("--shift", type=shift, metavar="N", help="pixels that square images move [mnist5k: 1]")
    add("--loss", choices=LOSSES, help="of a regression [squared]")
    add("--class-weights", choices=["balanced"], help="let classes count alike in the loss")


def _add_network_options(parser: Parser) -> None:
    size = _number(int, "sizes >= 1 with commas between, such as 256,128", lambda n: n >= 1)
    share = _number(float, "a number from 0 to below 1", lambda p: 0 <= p < 1)
    activation, activations = _choice(ACTIVATIONS), ", ".join(ACTIVATIONS)
    init, inits = _choice(INITIALISERS), ", ".join(INITIALISERS)
    add = parser.add_argument_group("network").add_argument
    add("--layers", type=_list(size), default=[256, 128], metavar="A,B,...", help="[256,128]")
    add("--activation", type=activation, default="relu", metavar="NAME", help=activations)
    add("--batch-norm", action="store_true", help="normalise before every activation")
    add("--dropout", type=share, default=0.0, metavar="P", help="dropped after activations [0]")
    add("--input-dropout", type=share, default=0.0, metavar="P", help="dropped of the inputs [0]")
    add("--init", type=init, default="he_normal", metavar="NAME", help=f"weights: {inits}")


def _add_training_options(parser: Parser) -> None:
    decay = _number(float, "a number >= 0", lambda x: 0 <= x < math.inf)
    natural = _number(int, "an integer >= 0", lambda n: n >= 0)
    threads = _number(int, "an integer from 1 to 1024", lambda n: 1 <= n <= 1024)
    optimizer, names = _choice(OPTIMIZER_NAMES), ", ".join(OPTIMIZER_NAMES)
    schedule, schedules = _choice(SCHEDULE_NAMES), ", ".join(SCHEDULE_NAMES)
    add = parser.add_argument_group("optimizer").add_argument
    add("--optimizer", type=optimizer, default="adam", metavar="NAME", help=f"{names} [adam]")
    add("--compare", type=_list(optimizer), metavar="A,B,...", help="train with each in turn")
    add("--lr", type=_positive, metavar="X", help="learning rate [one that suits the optimizer]")
    add("--find-lr", action="store_true", help="look for the learning rate first")
    add("--schedule", type=schedule, default="constant", metavar="NAME", help=f"rate: {schedules}")
    add("--weight-decay", type=decay, metavar="X", help="[the default of the optimizer]")
    add("--clip-norm", type=_positive, metavar="X", help="largest norm of the whole gradient")
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=_count, metavar="N", help="[20; 300 with --overfit]")
    add("--batch", type=_batch_size, default=64, metavar="N", help="rows per step, or all [64]")
    add("--early-stopping", type=_count, metavar="N", help="stop N epochs after the lowest loss")
    add("--seed", type=natural, default=1, metavar="N", help="of split, weights and batches [1]")
    add("--threads", type=threads, metavar="N", help="[all that the process may use]")
    add("--distributed", action="store_true", help="share every batch among the ranks of mpirun")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=_path, default="gradstep-train.png", metavar="FILE", help="[%(default)s]")
    add("--no-output", action="store_const", const=None, dest="output", help="draw no picture")
    add("--json", type=_path, metavar="FILE", help="write the options and every epoch there")
    add("--save", type=_path, metavar="FILE", help="write the model and all it takes to go on")
    add("--resume", type=_path, metavar="FILE", help="go on with what --save wrote")
    add("--report", type=_path, metavar="DIR", help="write a page of all there, index.html")
    add("--quiet", action="store_true", help="print errors only")


def _number(kind: type, expected: str, fits: Callable[[Any], bool]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r}, expected {expected}")
        return value

    return parse


_count = _number(int, "an integer >= 1", lambda n: n >= 1)
_positive = _number(float, "a number > 0", lambda x: 0 < x < math.inf)
_rows_per_step = _number(int, "an integer >= 1, or all", lambda n: n >= 1)


def _batch_size(text: str) -> int | None:
    return None if text == "all" else int(_rows_per_step(text))


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("'', expected a path")
    return Path(text)


def _choice(names: Iterable[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        asked = text.strip().lower().replace("_", "-")
        for name in names:
            if asked == name.replace("_", "-"):
                return name
        raise argparse.ArgumentTypeError(f"{text!r}, expected one of {', '.join(names)}")

    return parse


def _list(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [parse(item) for item in text.split(",")]


def check(arguments: argparse.Namespace) -> None:
    """Fill in what depends on other options, and refuse now what would fail after the training."""
    arguments.epochs = arguments.epochs or (300 if arguments.overfit else 20)
    if arguments.overfit and arguments.early_stopping:
        raise ValueError("--early-stopping: with --overfit, expected only one of them")
    if arguments.lr and arguments.find_lr:
        raise ValueError("--find-lr: with --lr, expected only one of them")
    if arguments.output and arguments.output.suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise ValueError(f"--output: {arguments.output}, expected a .png, .svg or .pdf file")
    if arguments.output and not find_spec("matplotlib"):
        raise MissingExtraError("matplotlib", "the picture (--no-output draws none)")
    if arguments.save and (arguments.folds or len(arguments.compare or ()) > 1):
        several = "--folds" if arguments.folds else "--compare"
        raise ValueError(f"--save: with {several}, expected one training")
    if arguments.save:
        check_extra()
    if arguments.report:
        try:
            check_folder(arguments.report)
        except ValueError as error:
            raise ValueError(f"--report: {error}") from None
    files = {f"--{name}": getattr(arguments, name) for name in ("output", "json", "save")}
    places.check_files(files, {"the data": arguments.data})
    if arguments.save:
        places.check_replaceable("--save", arguments.save)


def check_distributed() -> None:
    """Raise MissingExtraError without what --distributed needs."""
    if not find_spec("mpi4py"):
        raise MissingExtraError("mpi4py", "--distributed", "mpi")


def check_task(arguments: argparse.Namespace, task: str) -> None:
    """Refuse options that the task does not have."""
    if task == "regression" and arguments.class_weights:
        raise ValueError("--class-weights: balanced, expected only with classes, not numbers")
    if task == "classification" and arguments.loss:
        raise ValueError(f"--loss: {arguments.loss}, expected only with --task regression")
