"""Models in files: a training goes on to the bit, and other rows are predicted."""

import csv
import io
import re
import sys

import gradstep as gs
import numpy as np
import pytest
from gradstep.train import cli
from gradstep.train import loop as training

pytest.importorskip("safetensors")


@pytest.fixture
def mixed(folder):
    """A table with numbers, a category and gaps; its label is in the middle."""
    rng = np.random.default_rng(1)
    lines = []
    for i in range(120):
        color, x = "rgb"[i % 3], rng.standard_normal(2)
        kind = "hot" if x[0] + (color == "r") > 0.5 else "cold"
        lines.append(f"{x[0]:.3f},{kind},{'' if i % 7 == 0 else f'{x[1]:.3f}'},{color}")
    (folder / "mixed.csv").write_text("\n".join(["a,kind,b,color", *lines]) + "\n")
    return folder / "mixed.csv"


@pytest.fixture
def numbers(folder):
    """A regression in a file without a header."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((100, 3))
    y = 50 + 10 * x[:, 0] - 7 * x[:, 1]
    np.savetxt(folder / "numbers.csv", np.column_stack([x, y]), delimiter=",", fmt="%.4f")
    return folder / "numbers.csv"


def parts(path):
    """All that a file holds, flat, but for times and how many epochs were asked for."""
    found = {}

    def walk(value, name):
        if hasattr(value, "items"):
            for key, part in value.items():
                if key not in ("seconds", "parts", "epochs") or not name.startswith("options"):
                    walk(part, f"{name}.{key}" if name else key)
        elif isinstance(value, (list, tuple)):
            for i, part in enumerate(value):
                walk(part, f"{name}.{i}")
        elif ".seconds" not in name and ".parts" not in name:
            found[name] = value.tobytes() if isinstance(value, np.ndarray) else repr(value)

    walk(gs.load(path), "")
    return found


OPTIONS = {
    "plain": [],
    "regular": ["--batch-norm", "--dropout", "0.2", "--input-dropout", "0.1"],
    "stopping": ["--early-stopping", "50", "--optimizer", "lion", "--clip-norm", "1"],
    "weighted": ["--class-weights", "balanced", "--optimizer", "nadam", "--schedule", "power"],
    "overfit": ["--overfit", "20", "--batch", "all", "--optimizer", "nesterov", "--lr", "0.01"],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_training_that_goes_on_is_the_whole_one_to_the_bit(train, mixed, options):
    data = ["--data", "mixed.csv", "--label", "kind", *options]
    train(*data, "--epochs", 6, "--save", "whole")
    train(*data, "--epochs", 2, "--save", "part")
    done = train_on(train, "part", "--epochs", 6, "--save", "part")
    assert "goes on after epoch 2 of" in done.out
    assert parts("part") == parts("whole")
    assert any(name.startswith("training.model.") for name in parts("whole"))


def train_on(train, path, *arguments, code=0):
    """Resume without the options that the fixture gives."""
    return train.__wrapped__("train", "--resume", path, "--no-output", *arguments, code=code)


def test_interrupted_it_goes_on_to_the_bit_with_any_schedule(train, numbers, monkeypatch):
    options = ["--data", "numbers.csv", "--schedule", "one-cycle", "--epochs", 5, "--loss", "huber"]
    train(*options, "--save", "whole")
    evaluate, calls = training.evaluate, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(training, "evaluate", interrupted)
    done = train(*options, "--save", "part", "--json", "part.json", code=130)
    assert "interrupted (adam, after epoch 3 of 5)" in done.err and "model     part" in done.out
    monkeypatch.setattr(training, "evaluate", evaluate)
    train_on(train, "part", "--save", "part")
    assert parts("part") == parts("whole")


def test_a_training_that_was_killed_goes_on_from_its_last_file(train, numbers, monkeypatch):
    options = ["--data", "numbers.csv", "--epochs", 5]
    train(*options, "--save", "whole")
    evaluate, calls = training.evaluate, []

    def killed(*arguments):
        calls.append(arguments)
        return evaluate(*arguments) if len(calls) < 4 else 1 / 0

    monkeypatch.setattr(training, "evaluate", killed)
    monkeypatch.setattr(cli, "SAVE_EVERY", 0)
    with pytest.raises(ZeroDivisionError):
        train(*options, "--save", "part")
    monkeypatch.setattr(training, "evaluate", evaluate)
    assert "goes on after epoch 3 of part" in train_on(train, "part", "--save", "part").out
    assert parts("part") == parts("whole")


def test_another_length_of_a_schedule_is_said(train, numbers):
    train("--data", "numbers.csv", "--schedule", "cosine", "--save", "m")
    out = train_on(train, "m", "--epochs", 5).out
    assert "schedule cosine over 5 epochs from here on, over 3 before" in out


def predictions(out):
    return list(csv.DictReader(io.StringIO(out)))


def test_predictions_with_their_probabilities_and_a_score(train, run, mixed):
    train("--data", "mixed.csv", "--label", "kind", "--epochs", 80, "--lr", "0.02", "--save", "m")
    done = run("predict", "m", "mixed.csv")
    rows = predictions(done.out)
    assert list(rows[0]) == ["prediction", "probability cold", "probability hot"]
    for row in rows:
        cold, hot = float(row["probability cold"]), float(row["probability hot"])
        assert cold + hot == pytest.approx(1, abs=1e-4)
        assert row["prediction"] == ("hot" if hot > cold else "cold")
    labels = [line.split(",")[1] for line in mixed.read_text().splitlines()[1:]]
    right = np.mean([row["prediction"] == label for row, label in zip(rows, labels, strict=True)])
    assert right > 0.9
    assert done.err == f"gradstep: accuracy {100 * right:.2f} %, of 120 rows with a label\n"
    assert run("predict", "m", "mixed.csv", "--output", "p.csv").out == ""
    assert (mixed.parent / "p.csv").read_text() == done.out


def test_columns_are_found_by_their_names(train, run, mixed):
    train("--data", "mixed.csv", "--label", "kind", "--save", "m")
    expected = run("predict", "m", "mixed.csv").out
    lines = [line.split(",") for line in mixed.read_text().splitlines()]
    moved = [
        ",".join([cells[3], "x" if i else "more", cells[0], cells[2]])
        for i, cells in enumerate(lines)
    ]
    (mixed.parent / "moved.csv").write_text("\n".join(moved) + "\n")
    done = run("predict", "m", "moved.csv")
    assert done.out == expected and done.err == ""
    few = [",".join(line.split(",")[:2]) for line in moved]
    (mixed.parent / "few.csv").write_text("\n".join(few) + "\n")
    err = run("predict", "m", "few.csv", code=2).err
    assert err.startswith("gradstep: error: data: few.csv: no column a, b, expected all that was")


def test_a_level_that_was_never_seen_is_none_of_them(train, run, folder, mixed):
    train("--data", "mixed.csv", "--label", "kind", "--save", "m")
    (folder / "new.csv").write_text("a,b,color\n0.1,0.2,violet\n0.1,0.2,pink\n0.1,NA,r\n")
    first, second, third = predictions(run("predict", "m", "new.csv").out)
    assert first == second != third


def test_regressions_are_predicted_in_their_own_units(train, run, folder, numbers):
    train("--data", "numbers.csv", "--epochs", 150, "--lr", "0.01", "--save", "m")
    done = run("predict", "m", "numbers.csv")
    found = [float(row["prediction"]) for row in predictions(done.out)]
    table = np.loadtxt(numbers, delimiter=",")
    rmse = np.sqrt(np.mean((found - table[:, 3]) ** 2))
    assert rmse < 3 and f"RMSE {rmse:.3g}"[:8] in done.err and "R² 0.9" in done.err
    np.savetxt(folder / "without.csv", table[:5, :3], delimiter=",", fmt="%.4f")
    alone = run("predict", "m", "without.csv")
    np.testing.assert_allclose(
        [float(row["prediction"]) for row in predictions(alone.out)], found[:5], rtol=1e-5
    )
    assert alone.err == ""


def test_arrays_are_predicted_with_and_without_labels(train, run, folder):
    train("--save", "m")
    with np.load("three.npz") as file:
        x, y = file["X"], file["y"]
    np.savetxt("seven.csv", np.column_stack([x, y]), delimiter=",")
    np.savez("x.npz", X=x)
    np.savez("more.npz", X=x, y=np.where(y == 2, 7, y))
    done = run("predict", "m", "three.npz")
    assert run("predict", "m", "seven.csv", "--label", "last").out == done.out
    assert run("predict", "m", "x.npz").out == done.out and "of 180 rows" in done.err
    assert (
        "of 150 rows with a label, 30 without one that fits" in run("predict", "m", "more.npz").err
    )


def test_large_integers_are_counted_from_where_the_training_began(train, run, folder):
    start = 2**62
    rows = [f"{start + i},{'late' if i >= 50 else 'early'}" for i in range(100)]
    (folder / "times.csv").write_text("\n".join(rows) + "\n")
    train("--data", "times.csv", "--epochs", 60, "--lr", "0.02", "--save", "m")
    (folder / "last.csv").write_text("\n".join(rows[90:]) + "\n")
    assert {row["prediction"] for row in predictions(run("predict", "m", "last.csv").out)} == {
        "late"
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--save", "no/m"], "--save: no/m, expected a file in a folder that exists"),
        (["train", "--save", "m", "--folds", "3"], "--save: with --folds, expected one training"),
        (["train", "--save", "m", "--compare", "adam,sgd"], "--save: with --compare, expected .*"),
        (
            ["train", "--save", "x", "--json", "x"],
            "--save: x is that of --json, .*",
        ),
        (["train", "--resume", "none"], "none: No such file or directory"),
        (["train", "--resume", "three.npz"], ".*three.npz: no whole safetensors file .*"),
        (["train", "--resume", "other"], "other: not written by gradstep train --save"),
        (["train", "--resume", "m"], "--epochs: 3, expected more than the 3 that m has"),
        (["train", "--resume", "m", "--lr", "7"], "--lr: 7.0, expected 0.002 as in m"),
        (["train", "--resume", "m", "--layers", "8"], r"--layers: \[8\], expected \[16\] as in m"),
        (["train", "--resume", "m", "--batch-norm"], "--batch-norm: True, expected none as in m"),
        (
            ["train", "--resume", "m", "--epochs", "9", "--data", "mixed.csv"],
            "--resume: m was trained on other rows than those of mixed.csv",
        ),
        (["predict", "m"], "the following arguments are required: DATA"),
        (["predict", "none", "mixed.csv"], "none: No such file or directory"),
        (["predict", "m", "mixed.csv"], "data: mixed.csv: 4 columns, expected 6, or 7 with .*"),
        (["predict", "m", "seven.csv"], "data: seven.csv: .* 7 with the label that --label names"),
        (["predict", "m", "nothing.csv"], "data: nothing.csv: no such file"),
        (["predict", "m", "mixed"], "data: 'mixed', expected digits, .*"),
        (["predict", "m", "wide.npz"], "data: wide.npz: X: 7 columns .*, expected the 6 .*"),
        (["predict", "m", "three.npz", "--output", "m"], "--output: m is the model, m, expected.*"),
        (["predict", "m", "three.npz", "--output", "./three.npz"], "--output: .* is the data, .*"),
        (["predict", "m", "empty.npz"], r"data: empty.npz: X: shape \(0, 6\), expected rows .*"),
        (
            ["predict", "m", "three.npz", "--output", "/dev/full"],
            "--output: /dev/full: No space left on device, nothing written there",
        ),
        (["predict", "m", "three.npz", "--output", "no/x"], "--output: no/x, expected a file .*"),
    ],
)
def test_what_does_not_fit_is_one_line(train, run, mixed, arguments, message):
    train("--save", "m")
    gs.save("other", x=1)
    np.savez("wide.npz", X=np.eye(7))
    np.savez("empty.npz", X=np.zeros((0, 6)))
    np.savetxt("seven.csv", np.eye(7), delimiter=",")
    err = run(*arguments, code=2).err
    assert err.count("\n") == 1
    assert re.fullmatch(f"gradstep: error: {message}\n", err)


def test_a_training_that_has_ended_does_not_go_on(train, run):
    train("--lr", "1e25", "--optimizer", "sgd", "--save", "m", code=1)
    err = train_on(train, "m", "--epochs", 9, code=2).err
    assert (
        err
        == "gradstep: error: --resume: the training in m diverged, expected one that can go on\n"
    )


def test_missing_safetensors_names_the_extra(train, run, monkeypatch):
    from gradstep.train import model_file

    monkeypatch.setattr(model_file, "find_spec", lambda name: None)
    for done in (train("--save", "m", code=2), run("predict", "m", "three.npz", code=2)):
        assert done.err.endswith("not installed: pip install 'gradstep[checkpoint]'\n")


def test_a_single_row_is_predicted(train, run, folder, numbers):
    train("--data", "numbers.csv", "--save", "m")
    (folder / "row.csv").write_text("0.1,0.2,0.3\n")
    assert len(predictions(run("predict", "m", "row.csv").out)) == 1


def test_a_pipe_gives_the_data(train, run, mixed, monkeypatch):
    train("--data", "mixed.csv", "--label", "kind", "--save", "m")
    expected = run("predict", "m", "mixed.csv").out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(mixed.read_bytes())))
    assert run("predict", "m", "-").out == expected
