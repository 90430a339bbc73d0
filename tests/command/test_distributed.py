"""`gradstep train --distributed`: the training of one process, and what it refuses."""

import gradstep as gs
import numpy as np
import pytest
from gradstep.nn import mlp
from gradstep.train import options
from gradstep.train.datasets import Split
from gradstep.train.loop import train
from gradstep.train.objectives import Classification, Regression
from gradstep.train.team import Team

from tests.ranks import on_ranks


def trained(team=None, regression=False):
    """Losses, scores and weights; batches of 7 of 40 rows: parts of them are uneven, or empty."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5)).astype(np.float32)
    y = rng.standard_normal(40).astype(np.float32) if regression else rng.integers(0, 3, 40)
    model = mlp([5, 16, 1 if regression else 3], seed=1, dropout=0.0)
    make = gs.Adam if team is None else lambda *a, **k: team.optimizer(gs.Adam, *a, **k)
    optimizer = make(model.params, lr=0.01, clip_norm=1.0)
    keywords = {} if team is None else {"kind": team.training}
    objective = Regression("squared", None) if regression else Classification()
    history = train(
        model,
        Split(x, y, x, y),
        optimizer,
        epochs=3,
        batch_size=7,
        objective=objective,
        patience=2,
        **keywords,
    )
    epochs = [(e.train_loss, e.train_scores, e.valid_loss, e.valid_scores) for e in history.epochs]
    return epochs, {name: p.copy() for name, p in model.params.items()}


def by(n, **keywords):
    return on_ranks(n, lambda transport: trained(Team(transport), **keywords))


@pytest.mark.parametrize("regression", [False, True])
def test_processes_train_as_one(regression):
    epochs, weights = trained(regression=regression)
    [(own, alone)] = by(1, regression=regression)
    assert own == epochs
    assert all(alone[name].tobytes() == weights[name].tobytes() for name in weights)
    for n in (2, 9):  # with 9, some have no row of a batch
        found = by(n, regression=regression)
        assert all(each[0] == found[0][0] for each in found)
        for own, theirs in found:
            for name, expected in weights.items():
                np.testing.assert_allclose(theirs[name], expected, rtol=1e-3, atol=1e-4)
                assert theirs[name].tobytes() == found[0][1][name].tobytes()
            for ours, one in zip(own, epochs, strict=True):
                assert ours[0] == pytest.approx(one[0], rel=1e-4)
                assert ours[3] == pytest.approx(one[3], rel=1e-3)


@pytest.mark.parametrize(
    "given",
    [
        ["--batch-norm"],
        ["--class-weights", "balanced"],
        ["--find-lr"],
        ["--save", "model.safetensors"],
        ["--report", "page"],
    ],
)
def test_what_it_does_not_do_is_refused(train, untrained, given):
    said = train("--distributed", *given, code=2).err
    assert said.startswith(f"gradstep: error: {given[0]}: with --distributed, expected only one")


def test_without_mpi4py_it_names_the_extra(train, untrained, monkeypatch):
    find = options.find_spec
    monkeypatch.setattr(options, "find_spec", lambda name: name != "mpi4py" and find(name))
    said = train("--distributed", code=2).err
    assert "--distributed needs mpi4py, which is not installed: pip install 'gradstep[mpi]'" in said
