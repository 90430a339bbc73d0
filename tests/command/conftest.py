"""What tests of the command share: a folder with data, and the command run in this process."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
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

    train.__wrapped__ = run
    return train


@pytest.fixture
def result(train):
    def result(*arguments):
        train("--json", "result.json", "--quiet", *arguments)
        with open("result.json", encoding="utf-8") as file:
            return json.load(file)

    return result


@pytest.fixture
def untrained(monkeypatch):
    """Fails when a training begins."""
    monkeypatch.setattr(training, "train", lambda *arguments, **keywords: pytest.fail("trained"))
