"""Ctrl-C: what was done is kept, told and written."""

import json

from gradstep.train import loop as training

from tests.command.outcomes import table


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
