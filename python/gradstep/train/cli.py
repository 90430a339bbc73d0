"""The command line: `gradstep train`, `predict`, `certify`, `bench` and `info`.

Everything a user can get wrong ends in one line on stderr and exit code 2, if it can be known
before the work starts; see `main`. Results in files do not get lost for what happens to stdout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from gradstep import runtime
from gradstep.runtime import build_info
from gradstep.train import datasets, report, splits
from gradstep.train.certify import certify
from gradstep.train.console import Console, complain, finish, hold_closed_descriptors
from gradstep.train.datasets import Dataset, MissingExtraError, Split
from gradstep.train.files import Reading, load_dataset
from gradstep.train.frame import Choices
from gradstep.train.job import Job, OnEpoch
from gradstep.train.loop import DEFAULT_LR, REGRESSION_LR, Epoch, History, Training
from gradstep.train.model_file import Saved, digest, read_model, write_model
from gradstep.train.options import (
    NOT_OPTIONS,
    check,
    check_distributed,
    check_task,
    going_on,
    parser,
    resumed,
)
from gradstep.train.page import write_page
from gradstep.train.predict import predict
from gradstep.train.records import Record
from gradstep.train.report import Run

__all__ = ["main"]

# Seconds between two writings of the model while it is trained.
SAVE_EVERY = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    argv: the arguments; those of the process unless given. The code is 0, or 1 if all training
    diverged or `certify` found other bits, 2 for an error, 130 after Ctrl-C, 141 if the reader of
    stdout has gone. `--help` and `--version` raise SystemExit(0), and so do bad arguments of
    `bench`, with 2.

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
    commands = {"info": _info, "train": _train, "predict": predict, "certify": certify}
    arguments = parser(commands).parse_args(argv)
    arguments.line = list(argv)
    given = arguments.given = vars(parser(commands, defaults=False).parse_args(argv))
    arguments.keep = bool(given.get("save") or given.get("report"))  # by all of a team
    code: int = arguments.command(arguments)
    return code


def _train(arguments: argparse.Namespace) -> int:
    saved = None if arguments.resume is None else read_model(arguments.resume)
    arguments = arguments if saved is None else resumed(arguments, saved)
    if not arguments.distributed:
        check(arguments)
        return _train_checked(arguments, saved)
    check_distributed()
    team = import_module("gradstep.train.team").Team()
    if team.rank:  # the first one speaks and writes
        arguments.quiet = True
        for name in ("output", "json", "save", "report"):
            setattr(arguments, name, None)
    with team.together():
        check(arguments)
        return _train_checked(arguments, saved, team)


def _train_checked(arguments: argparse.Namespace, saved: Saved | None, team: Any = None) -> int:
    console = Console(arguments.quiet)
    data = load_dataset(arguments.data, _reading(arguments))
    check_task(arguments, data.task)
    if saved is not None and digest(data) != saved.digest:
        rows = f"{saved.path} was trained on other rows than those of {arguments.data}"
        raise ValueError(f"--resume: {rows}")
    job = Job(arguments, data, _splits(arguments, data), team)
    console.say(_describe(job) + ("" if saved is None else going_on(arguments, saved)))
    files = any((arguments.output, arguments.json, arguments.save, arguments.report))
    if console.error and not (files and isinstance(console.error, BrokenPipeError)):
        raise console.error
    with _threads(arguments.threads):
        names = arguments.compare or [arguments.optimizer]
        usual = DEFAULT_LR if data.classes else REGRESSION_LR
        rates = {name: arguments.lr or usual[name] for name in names}
        if arguments.find_lr:
            rates = {name: job.find_rate(name, console.say) for name in names}
        runs, interrupted = _train_all(job, rates, None if saved is None else saved.training)
    console.say(f"{report.result_table(runs)}\n\n{report.time_table(runs)}")
    failures = _write_files(job, runs, console, interrupted)
    code = _end(runs, interrupted, complain if job.first else lambda line: None)
    if failures:
        raise OSError("; ".join(failures))
    if console.error:
        raise console.error
    return code


def _reading(arguments: argparse.Namespace) -> Reading:
    header = None if arguments.header is None else arguments.header == "yes"
    choices = Choices(tuple(arguments.categories), tuple(arguments.drop))
    missing = tuple(arguments.missing)
    return Reading(arguments.label, header, arguments.task, choices, missing)


def _train_all(
    job: Job, rates: dict[str, float], start: Mapping[str, Any] | None
) -> tuple[list[Run], str | None]:
    """Train with each optimizer on each split; return the runs, and where Ctrl-C ended them."""
    runs: list[Run] = []
    try:
        with _progress(job.arguments, len(rates) * len(job.splits)) as progress:
            for name, lr in rates.items():
                runs.append(Run(name, lr, []))
                for split in job.splits:
                    record = Record(job.arguments.keep)
                    runs[-1].records.append(record)
                    note = _saving(job, lr, record, partial(record.note, show=progress(name)))
                    runs[-1].histories.append(job.fit(name, lr, split, note, start))
    except KeyboardInterrupt:
        return _interrupted(job, runs)
    return runs, None


def _saving(job: Job, lr: float, record: Record, note: OnEpoch) -> OnEpoch:
    """Write the model from time to time too, so that a loss of power costs little.

    A disk that is full meanwhile does not end the training: the end tells.
    """
    path, last = job.arguments.save, perf_counter()

    def noted(training: Training) -> None:
        nonlocal last
        note(training)
        if path is not None and record.state is not None and perf_counter() - last > SAVE_EVERY:
            with suppress(OSError):
                write_model(job, lr, record.state, path)
            last = perf_counter()

    return noted


def _interrupted(job: Job, runs: list[Run]) -> tuple[list[Run], str]:
    """Return the runs that have an epoch, and where Ctrl-C came; raise it again if none has."""
    place = ""
    for run in runs[-1:]:
        fold, epochs = len(run.records), run.records[-1].epochs if run.records else []
        if epochs and len(run.histories) < fold:
            run.histories.append(_unfinished(epochs, job.arguments.early_stopping))
        del run.records[len(run.histories) :]
        of_folds = f", fold {max(fold, 1)} of {len(job.splits)}" if len(job.splits) > 1 else ""
        end = f"after epoch {len(epochs)} of {job.arguments.epochs}"
        place = f"{run.optimizer}{of_folds}, {end}"
    finished = [run for run in runs if run.histories]
    if not finished:
        raise KeyboardInterrupt
    return finished, place


def _unfinished(epochs: list[Epoch], patience: int | None) -> History:
    losses = [epoch.valid_loss for epoch in epochs]
    best = int(np.argmin(losses)) if patience else len(epochs) - 1
    return History(list(epochs), best)


def _write_files(job: Job, runs: list[Run], console: Console, interrupted: str | None) -> list[str]:
    """Write what was asked for; return why a file could not be written, a line each."""
    options, data = job.arguments, job.data
    content = {
        "gradstep": build_info()["version"],
        "options": {name: v for name, v in vars(options).items() if name not in NOT_OPTIONS},
        "data": {"name": data.name, "rows": len(data.y), "classes": data.classes},
        "task": data.task,
        "network": job.sizes(job.splits[0]),
    }
    curves = [(run.optimizer, run.histories) for run in runs]
    writers: list[tuple[str, str, Path | None, Callable[[Path], None]]] = [
        ("history", "--json", options.json, partial(report.write_json, content, runs)),
        ("curves", "--output", options.output, partial(report.draw_curves, curves, data.name)),
    ]
    state = runs[0].records[0].state
    if state is not None:
        model = partial(write_model, job, runs[0].lr, state)
        writers.append(("model", "--save", options.save, model))
    if options.report is not None:
        page = partial(write_page, job, runs, options.line, interrupted)
        writers.append(("report", "--report", options.report, page))
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


def _end(runs: list[Run], interrupted: str | None, say: Callable[[str], None]) -> int:
    """Say what went wrong in a line each; return the exit code."""
    lines = [line for line in map(report.divergence, runs) if line]
    for line in lines:
        say(f"gradstep: {line}")
    if interrupted:
        say(f"gradstep: interrupted ({interrupted}); the results so far are kept")
        return 130
    return int(len(lines) == len(runs))


def _splits(arguments: argparse.Namespace, data: Dataset) -> list[Split]:
    seed, labels = arguments.seed, np.array(data.classes)[data.y] if data.classes else data.y
    stratify = labels if data.classes else None
    if arguments.folds:
        rows = splits.k_fold(len(labels), arguments.folds, stratify=stratify, seed=seed)
    else:
        share = arguments.validation
        rows = [splits.validation_split(len(labels), share, stratify=stratify, seed=seed)]
    count, most = arguments.overfit, min(len(train) for train, _ in rows)
    if count and count > most:
        raise ValueError(f"--overfit: {count}, expected at most the {most} rows to train on")
    return [datasets.make_split(data, train[:count], valid) for train, valid in rows]


def _describe(job: Job) -> str:
    options, split, data = job.arguments, job.splits[0], job.data
    sizes = job.sizes(split)
    count = sum(p.size for p in job.model(split).params.values())
    norm = ", batch norm" if options.batch_norm else ""
    dropout = f", input dropout {options.input_dropout:g}" if options.input_dropout else ""
    dropout += f", dropout {options.dropout:g}" if options.dropout else ""
    rows = f"{len(split.y):,} rows to train, {len(split.valid_y):,} to validate"
    folds = f", {options.folds} folds" if options.folds else ""
    shift = f", images shifted by up to {job.shift}" if job.augment else ""
    notes = "".join(f"          {note}\n" for note in data.notes)
    columns = len(data.columns) or sizes[0]
    learnt = f"{len(data.classes)} classes" if data.classes else _targets(data)
    return (
        f"data      {data.name}: {columns:,} columns, {learnt}, {rows}{folds}\n"
        f"{notes}"
        f"network   {'-'.join(map(str, sizes))}{norm}, {options.activation}{dropout}, "
        f"{count:,} parameters, float32, start {options.init}\n"
        f"training  {options.epochs} epochs of {job.steps(split):,} steps, "
        f"batch {options.batch or 'all'}, schedule {options.schedule}, seed {options.seed}{shift}\n"
    )


def _targets(data: Dataset) -> str:
    return f"numbers from {data.y.min():.4g} to {data.y.max():.4g}"


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
        yield lambda name: lambda training: None
        return
    from tqdm import tqdm

    with tqdm(total=runs * arguments.epochs, unit="epoch", leave=False, dynamic_ncols=True) as bar:

        def show(name: str, training: Training) -> None:
            score, value = next(iter(training.history.epochs[-1].valid_scores.items()))
            style = report.STYLES[score]
            bar.set_description(f"{name}, validation {style.show([value])}", refresh=False)
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
    lacks = "".join(f"; {level} needs {what}" for level, what in build["simd_missing"].items())
    extras = ("matplotlib", "tqdm", "scikit-learn", "mlxtend", "safetensors", "torch")
    lines = {
        "gradstep": build["version"],
        "SIMD": f"{build['simd_level']} (this CPU runs {', '.join(build['simd_levels'])}{lacks})",
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
