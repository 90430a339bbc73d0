"""The command line: `gradstep train`, `gradstep bench` and `gradstep info`.

Everything a user can get wrong ends in one line on stderr and exit code 2; see `main`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gradstep import runtime
from gradstep.nn import ACTIVATIONS, INITIALISERS, Sequential, mlp
from gradstep.runtime import build_info
from gradstep.train import datasets, report
from gradstep.train import loop as training
from gradstep.train.augmentation import Augmentation, random_shift
from gradstep.train.batches import balanced_class_weights
from gradstep.train.datasets import Dataset, MissingExtraError, Split
from gradstep.train.loop import DEFAULT_LR, OPTIMIZER_NAMES, SCHEDULE_NAMES, Epoch, History
from gradstep.train.lr_search import find_lr
from gradstep.train.report import Run

__all__ = ["main"]

OnEpoch = Callable[[Epoch], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    argv: the arguments; those of the process unless given. The code is 0, or 1 if all training
    diverged, 2 for an error, 130 after Ctrl-C. `--help` and `--version` raise SystemExit(0), and so
    do bad arguments of `bench`, with 2.

    >>> main(["train", "--epochs", "0"])
    2
    """
    given = sys.argv[1:] if argv is None else argv
    try:
        if given[:1] == ["bench"]:
            return _bench(given[1:])
        arguments = _parser().parse_args(given)
        code: int = arguments.command(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("gradstep: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone; without this the interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (MissingExtraError, ValueError, MemoryError, OSError) as error:
        print("gradstep: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


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


@dataclass(frozen=True)
class Job:
    """What `gradstep train` was asked to do, and the rows to do it with: one split, or K folds."""

    arguments: argparse.Namespace
    data: Dataset
    splits: list[Split]

    @property
    def sizes(self) -> list[int]:
        """Sizes of the network: columns, hidden layers, classes."""
        return [self.data.x.shape[1], *self.arguments.layers, len(self.data.classes)]

    def steps(self, split: Split) -> int:
        """Steps per epoch."""
        return math.ceil(len(split.y) / (self.arguments.batch or len(split.y)))

    @property
    def shift(self) -> int:
        """Pixels that training images move at random; none when a few are to be learnt by heart."""
        asked = self.arguments.shift
        own = 0 if self.arguments.overfit else self.data.shift
        return int(own if asked is None else asked)

    @property
    def augment(self) -> Augmentation | None:
        """What happens to a batch before it is used."""
        return random_shift(self.sizes[0], self.shift) if self.shift else None

    def model(self) -> Sequential:
        """Return a fresh network."""
        options = self.arguments
        names = ("seed", "activation", "init", "batch_norm", "dropout", "input_dropout")
        return mlp(self.sizes, **{name: getattr(options, name) for name in names})

    def set_up(self, name: str, lr: Any, split: Split) -> tuple[Any, Any, dict[str, Any]]:
        """Return a fresh model, its optimizer, and the keywords of `train` and `step_function`."""
        options = self.arguments
        model = self.model()
        settings = {"weight_decay": options.weight_decay, "clip_norm": options.clip_norm}
        optimizer = training.make_optimizer(name, model.params, lr, **settings)
        balanced = options.class_weights == "balanced"
        weights = balanced_class_weights(split.y, self.sizes[-1]) if balanced else None
        keywords = {"batch_size": options.batch, "seed": options.seed, "class_weights": weights}
        return model, optimizer, keywords

    def find_rate(self, name: str, say: Callable[[str], None]) -> float:
        """Return the best of several learning rates, tried for 100 steps on the first split."""

        def make(lr: float) -> Callable[[], float]:
            model, optimizer, keywords = self.set_up(name, lr, self.splits[0])
            return training.step_function(model, self.splits[0], optimizer, **keywords)

        found = find_lr(make, steps=100)
        say(f"{name}, 100 steps at each rate\n{found}\n")
        return found.suggestion

    def fit(self, name: str, lr: float, split: Split, on_epoch: OnEpoch) -> History:
        """Train on one split."""
        options, steps = self.arguments, self.steps(split)
        schedule = SCHEDULE_NAMES[options.schedule](lr, steps * options.epochs, steps)
        model, optimizer, keywords = self.set_up(name, schedule, split)
        keywords |= {"epochs": options.epochs, "patience": options.early_stopping}
        keywords["augment"] = self.augment
        return training.train(model, split, optimizer, on_epoch=on_epoch, **keywords)


def _train(arguments: argparse.Namespace) -> int:
    _check_options(arguments)
    header = None if arguments.header is None else arguments.header == "yes"
    data = datasets.load_dataset(arguments.data, arguments.label, header)
    job = Job(arguments, data, _splits(arguments, data))
    say: Callable[[str], None] = (lambda text: None) if arguments.quiet else print
    say(_describe(job))
    names = arguments.compare or [arguments.optimizer]
    with _threads(arguments.threads):
        rates = {name: arguments.lr or DEFAULT_LR[name] for name in names}
        if arguments.find_lr:
            rates = {name: job.find_rate(name, say) for name in names}
        with _progress(arguments, len(rates) * len(job.splits)) as progress:
            runs = [
                Run(name, lr, [job.fit(name, lr, split, progress(name)) for split in job.splits])
                for name, lr in rates.items()
            ]
    say(f"{report.result_table(runs)}\n\n{report.time_table(runs)}")
    if arguments.json:
        _write_json(job, runs, arguments.json)
        say(f"\nhistory   {arguments.json}")
    if arguments.output:
        curves = [(run.optimizer, run.histories) for run in runs]
        report.draw_curves(curves, data.name, arguments.output)
        say(f"\ncurves    {arguments.output}")
    return _report_divergence(runs)


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
    for option, path in (("--output", arguments.output), ("--json", arguments.json)):
        if path and (path.is_dir() or not path.parent.is_dir()):
            raise ValueError(f"{option}: {path}, expected a file in a folder that exists")


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
    shown = sys.stderr.isatty() and not arguments.quiet
    if shown and not find_spec("tqdm"):
        shown = False
        print("gradstep:", MissingExtraError("tqdm", "the progress bar"), file=sys.stderr)
    if not shown:
        yield lambda name: lambda epoch: None
        return
    from tqdm import tqdm

    with tqdm(total=runs * arguments.epochs, unit="epoch", leave=False, dynamic_ncols=True) as bar:

        def show(name: str, epoch: Epoch) -> None:
            bar.set_description(f"{name}, validation {epoch.valid_accuracy:.1%}", refresh=False)
            bar.update()

        yield lambda name: partial(show, name)


def _write_json(job: Job, runs: list[Run], path: Path) -> None:
    content = {
        "gradstep": build_info()["version"],
        "options": {n: v for n, v in vars(job.arguments).items() if n != "command"},
        "data": {"name": job.data.name, "rows": len(job.data.y), "classes": job.data.classes},
        "network": job.sizes,
        "runs": [asdict(run) for run in runs],
    }
    # JSON has no number for the loss of a run that diverged; null stands for it.
    content = json.loads(json.dumps(content, default=str), parse_constant=lambda name: None)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _report_divergence(runs: list[Run]) -> int:
    diverged = [run for run in runs if any(history.diverged for history in run.histories)]
    for run in diverged:
        advice = f"try a lower --lr than {run.lr:.3g}, or --clip-norm 1"
        print(
            f"gradstep: {run.optimizer}: the loss is not finite any more; {advice}", file=sys.stderr
        )
    return int(len(diverged) == len(runs))


def _bench(argv: Sequence[str]) -> int:
    """A quick run of the benchmarks, which load many modules: only when they are asked for."""
    if find_spec("gradstep.bench") is None:
        raise ValueError("bench: not part of this installation; run python -m bench in a checkout")
    run: Callable[..., int] = import_module("gradstep.bench.__main__").main
    return run(argv, short=True, program="gradstep bench")


def _info(arguments: argparse.Namespace) -> int:
    build = build_info()
    extras = ("matplotlib", "tqdm", "scikit-learn", "mlxtend", "torch")
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
        print(f"{name:<12}  {text}")
    return 0


def _installed_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
