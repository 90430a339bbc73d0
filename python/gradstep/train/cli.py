"""The command line: `gradstep train`, `gradstep bench` and `gradstep info`.

Everything a user can get wrong ends in one line on stderr and exit code 2, if it can be known
before the work starts; see `main`. Results in files do not get lost for what happens to stdout.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gradstep import runtime
from gradstep.nn import ACTIVATIONS, INITIALISERS
from gradstep.runtime import build_info
from gradstep.train import datasets, report
from gradstep.train.console import Console, complain, finish, hold_closed_descriptors
from gradstep.train.datasets import Dataset, MissingExtraError, Split
from gradstep.train.job import Job, OnEpoch
from gradstep.train.loop import DEFAULT_LR, OPTIMIZER_NAMES, SCHEDULE_NAMES, Epoch, History
from gradstep.train.report import Run

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    argv: the arguments; those of the process unless given. The code is 0, or 1 if all training
    diverged, 2 for an error, 130 after Ctrl-C, 141 if the reader of stdout has gone. `--help` and
    `--version` raise SystemExit(0), and so do bad arguments of `bench`, with 2.

    >>> main(["train", "--epochs", "0"])
    2
    """
    hold_closed_descriptors()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
    except SystemExit as exit_:
        failure = finish()
        raise SystemExit(exit_.code or _unwritten(failure)) from None
    except KeyboardInterrupt:
        complain("gradstep: interrupted")
        code = 130
    except BrokenPipeError:
        code = 141
    except (MissingExtraError, ValueError, MemoryError, OSError) as error:
        complain(f"gradstep: error: {' '.join(str(error).split())}")
        code = 2
    failure = finish()
    return code or _unwritten(failure)


def _unwritten(failure: OSError | None) -> int:
    if failure is None:
        return 0
    if isinstance(failure, BrokenPipeError):
        return 141
    complain(f"gradstep: error: standard output: {failure.strerror}, expected one to write to")
    return 2


def _run(argv: Sequence[str]) -> int:
    if argv[:1] == ["bench"]:
        Console()
        return _bench(argv[1:])
    arguments = _parser().parse_args(argv)
    code: int = arguments.command(arguments)
    return code


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors, so that `main` prints them like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError with the message."""
        raise ValueError(message)


def _parser() -> Parser:
    parser = Parser(prog="gradstep", description="SIMD optimizer steps for NumPy arrays.")
    version = f"gradstep {build_info()['version']}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    about = "show version, SIMD level, threads, compiler and extras"
    info = commands.add_parser("info", help=about, description=about)
    info.set_defaults(command=_info)
    about = "measure gradstep beside the libraries that are installed"
    commands.add_parser("bench", help=about)  # its own parser does the rest, see _bench
    about = "train a classifier, a multilayer perceptron, and draw its curves"
    train = commands.add_parser("train", help=about, description=about, allow_abbrev=False)
    train.set_defaults(command=_train)
    _add_data_options(train)
    _add_network_options(train)
    _add_training_options(train)
    return parser


def _add_data_options(parser: Parser) -> None:
    share = _number(float, "a number between 0 and 1", lambda x: 0 < x < 1)
    folds = _number(int, "an integer >= 2", lambda n: n >= 2)
    shift = _number(int, "an integer >= 0", lambda n: n >= 0)
    sources = f"{', '.join(datasets.BUILT_IN)}, or a .npz (X, y) or .csv file [digits]"
    add = parser.add_argument_group("data").add_argument
    add("--data", default="digits", metavar="SOURCE", help=sources)
    add("--label", metavar="COLUMN", help="of a .csv: first, last, a name or an index [last]")
    add("--header", choices=["yes", "no"], help="does a .csv begin with names? [found out, said]")
    add("--validation", type=share, default=0.2, metavar="SHARE", help="rows held out [0.2]")
    add("--folds", type=folds, metavar="K", help="K-fold cross validation instead of one split")
    add("--overfit", type=_count, metavar="N", help="train on N rows only, to test the capacity")
    add("--shift", type=shift, metavar="N", help="pixels that square images move [mnist5k: 1]")
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
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, default="gradstep-train.png", metavar="FILE", help="[%(default)s]")
    add("--no-output", action="store_const", const=None, dest="output", help="draw no picture")
    add("--json", type=Path, metavar="FILE", help="write the options and every epoch there")
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


def _train(arguments: argparse.Namespace) -> int:
    console = Console(arguments.quiet)
    _check_options(arguments)
    header = None if arguments.header is None else arguments.header == "yes"
    data = datasets.load_dataset(arguments.data, arguments.label, header)
    job = Job(arguments, data, _splits(arguments, data))
    console.say(_describe(job))
    files = arguments.output or arguments.json
    if console.error and not (files and isinstance(console.error, BrokenPipeError)):
        raise console.error
    with _threads(arguments.threads):
        names = arguments.compare or [arguments.optimizer]
        rates = {name: arguments.lr or DEFAULT_LR[name] for name in names}
        if arguments.find_lr:
            rates = {name: job.find_rate(name, console.say) for name in names}
        runs, interrupted = _train_all(job, rates)
    console.say(f"{report.result_table(runs)}\n\n{report.time_table(runs)}")
    failures = _write_files(job, runs, console)
    code = _end(runs, interrupted)
    if failures:
        raise OSError("; ".join(failures))
    if console.error:
        raise console.error
    return code


def _train_all(job: Job, rates: dict[str, float]) -> tuple[list[Run], str | None]:
    """Train with each optimizer on each split; return the runs, and where Ctrl-C ended them."""
    runs: list[Run] = []
    epochs: list[Epoch] = []

    def noting(show: OnEpoch) -> OnEpoch:
        def note(epoch: Epoch) -> None:
            epochs.append(epoch)
            show(epoch)

        return note

    try:
        with _progress(job.arguments, len(rates) * len(job.splits)) as progress:
            for name, lr in rates.items():
                runs.append(Run(name, lr, []))
                for split in job.splits:
                    epochs.clear()
                    history = job.fit(name, lr, split, noting(progress(name)))
                    runs[-1].histories.append(history)
    except KeyboardInterrupt:
        split_number = len(runs[-1].histories) + 1 if runs else 1
        if runs and epochs and split_number <= len(job.splits):
            runs[-1].histories.append(_unfinished(epochs, job.arguments.early_stopping))
        finished = [run for run in runs if run.histories]
        if not finished:
            raise
        fold = f", fold {split_number} of {len(job.splits)}" if len(job.splits) > 1 else ""
        place = f"{runs[-1].optimizer}{fold}, after epoch {len(epochs)} of {job.arguments.epochs}"
        return finished, place
    return runs, None


def _unfinished(epochs: list[Epoch], patience: int | None) -> History:
    losses = [epoch.valid_loss for epoch in epochs]
    best = int(np.argmin(losses)) if patience else len(epochs) - 1
    return History(list(epochs), best)


def _write_files(job: Job, runs: list[Run], console: Console) -> list[str]:
    """Write what was asked for; return why a file could not be written, a line each."""
    options, data = job.arguments, job.data
    content = {
        "gradstep": build_info()["version"],
        "options": {name: v for name, v in vars(options).items() if name != "command"},
        "data": {"name": data.name, "rows": len(data.y), "classes": data.classes},
        "network": job.sizes,
    }
    curves = [(run.optimizer, run.histories) for run in runs]
    writers: list[tuple[str, str, Path | None, Callable[[Path], None]]] = [
        ("history", "--json", options.json, partial(report.write_json, content, runs)),
        ("curves", "--output", options.output, partial(report.draw_curves, curves, data.name)),
    ]
    failures = []
    for what, option, path, write in writers:
        if path is None:
            continue
        try:
            write(path)
        except OSError as error:
            failures.append(f"{option}: {path}: {error.strerror or error}, nothing written there")
        else:
            console.say(f"\n{what:<9} {path}")
    return failures


def _end(runs: list[Run], interrupted: str | None) -> int:
    """Say what went wrong in a line each; return the exit code."""
    lines = [line for line in map(report.divergence, runs) if line]
    for line in lines:
        complain(f"gradstep: {line}")
    if interrupted:
        complain(f"gradstep: interrupted ({interrupted}); the results so far are kept")
        return 130
    return int(len(lines) == len(runs))


def _check_options(arguments: argparse.Namespace) -> None:
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
    taken = {os.path.realpath(arguments.data): f"the data, {arguments.data}"}
    for option, path in (("--output", arguments.output), ("--json", arguments.json)):
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in taken:
            raise ValueError(f"{option}: {path} is {taken[place]}, expected another file")
        taken[place] = f"that of {option}"
        try:
            report.check_writable(path)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None


def _splits(arguments: argparse.Namespace, data: Dataset) -> list[Split]:
    labels = np.array(data.classes)[data.y]
    if arguments.folds:
        rows = datasets.stratified_folds(labels, arguments.folds, arguments.seed)
    else:
        rows = [datasets.stratified_split(labels, arguments.validation, arguments.seed)]
    splits = [datasets.make_split(data, *parts) for parts in rows]
    if not arguments.overfit:
        return splits
    count, most = arguments.overfit, min(len(split.y) for split in splits)
    if count > most:
        raise ValueError(f"--overfit: {count}, expected at most the {most} rows to train on")
    return [replace(split, x=split.x[:count], y=split.y[:count]) for split in splits]


def _describe(job: Job) -> str:
    options, split, sizes = job.arguments, job.splits[0], job.sizes
    count = sum(p.size for p in job.model().params.values())
    norm = ", batch norm" if options.batch_norm else ""
    dropout = f", input dropout {options.input_dropout:g}" if options.input_dropout else ""
    dropout += f", dropout {options.dropout:g}" if options.dropout else ""
    rows = f"{len(split.y):,} rows to train, {len(split.valid_y):,} to validate"
    folds = f", {options.folds} folds" if options.folds else ""
    shift = f", images shifted by up to {job.shift}" if job.augment else ""
    notes = "".join(f"          {note}\n" for note in job.data.notes)
    return (
        f"data      {job.data.name}: {sizes[0]:,} columns, {sizes[-1]} classes, {rows}{folds}\n"
        f"{notes}"
        f"network   {'-'.join(map(str, sizes))}{norm}, {options.activation}{dropout}, "
        f"{count:,} parameters, float32, start {options.init}\n"
        f"training  {options.epochs} epochs of {job.steps(split):,} steps, "
        f"batch {options.batch or 'all'}, schedule {options.schedule}, seed {options.seed}{shift}\n"
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Limit gradstep, and the matrix products of NumPy where threadpoolctl is installed.

    Steps take the threads of these products: nothing else computes in the command's process.
    """
    limits: Any = nullcontext()
    if count is not None and find_spec("threadpoolctl"):
        limits = import_module("threadpoolctl").threadpool_limits(count)
    with runtime.threads(count or runtime.get_num_threads()), limits:
        runtime.use_blas_threads()
        try:
            yield
        finally:
            runtime.use_blas_threads(False)


@contextmanager
def _progress(arguments: argparse.Namespace, runs: int) -> Iterator[Callable[[str], OnEpoch]]:
    """Yield a function that makes the callback of one run; it moves a bar on a terminal."""
    shown = sys.stderr is not None and sys.stderr.isatty() and not arguments.quiet
    if shown and not find_spec("tqdm"):
        shown = False
        complain(f"gradstep: {MissingExtraError('tqdm', 'the progress bar')}")
    if not shown:
        yield lambda name: lambda epoch: None
        return
    from tqdm import tqdm

    with tqdm(total=runs * arguments.epochs, unit="epoch", leave=False, dynamic_ncols=True) as bar:

        def show(name: str, epoch: Epoch) -> None:
            bar.set_description(f"{name}, validation {epoch.valid_accuracy:.1%}", refresh=False)
            bar.update()

        yield lambda name: partial(show, name)


def _bench(argv: Sequence[str]) -> int:
    """A quick run of the benchmarks, which load many modules: only when they are asked for."""
    if find_spec("gradstep.bench") is None:
        raise ValueError("bench: not part of this installation; run python -m bench in a checkout")
    run: Callable[..., int] = import_module("gradstep.bench.__main__").main
    return run(argv, short=True, program="gradstep bench")


def _info(arguments: argparse.Namespace) -> int:
    console = Console()
    build = build_info()
    extras = ("matplotlib", "tqdm", "scikit-learn", "mlxtend", "safetensors", "torch")
    lines = {
        "gradstep": build["version"],
        "SIMD": f"{build['simd_level']} (this CPU runs {', '.join(build['simd_levels'])})",
        "threads": build["threads"],
        "compiler": build["compiler"],
        "Python": sys.version.split()[0],
        "NumPy": np.__version__,
        **{package: _installed_version(package) for package in extras},
    }
    for name, text in lines.items():
        console.say(f"{name:<12}  {text}")
    if console.error:
        raise console.error
    return 0


def _installed_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
