"""`gradstep train --distributed`: the training of one process, and going on with it."""

from functools import partial

import gradstep as gs
import numpy as np
import pytest
from gradstep.nn import mlp
from gradstep.train import options
from gradstep.train.datasets import Split
from gradstep.train.loop import train
from gradstep.train.objectives import Classification, Regression
from gradstep.train.records import Record
from gradstep.train.team import Team
from gradstep.train.weights import class_weights

from tests.ranks import on_ranks

KINDS = {
    "classes": {},
    "numbers": {"regression": True},
    "norm": {"batch_norm": True},
    "norm and tanh": {"batch_norm": True, "activation": "tanh"},
    "dropout": {"dropout": 0.3, "input_dropout": 0.1, "activation": "prelu"},
    "weights": {"weights": True, "activation": "maxout"},
}


def trained(team=None, regression=False, weights=False, epochs=3, start=None, **network):
    """Losses, scores and weights; batches of 7 of 40 rows: parts of them are uneven, or empty."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5)).astype(np.float32)
    y = rng.standard_normal(40).astype(np.float32) if regression else rng.integers(0, 3, 40)
    model = mlp([5, 16, 1 if regression else 3], seed=1, **network)
    make, keywords = gs.Adam, {}
    if team is not None:
        team.take(model)
        make, keywords = partial(team.optimizer, gs.Adam), {"kind": team.training}
    optimizer = make(model.params, lr=0.01, clip_norm=1.0)
    objective = Regression("squared", None) if regression else Classification()
    if weights:
        objective = Classification(class_weights(y))
    record = Record(keep=True)
    history = train(
        model,
        Split(x, y, x, y),
        optimizer,
        epochs=epochs,
        batch_size=7,
        objective=objective,
        patience=2,
        on_epoch=partial(record.note, show=lambda training: None),
        start=start,
        **keywords,
    )
    epochs = [(e.train_loss, e.train_scores, e.valid_loss, e.valid_scores) for e in history.epochs]
    return epochs, {name: p.copy() for name, p in model.params.items()}, record


def by(n, **keywords):
    return on_ranks(n, lambda transport: trained(Team(transport), **keywords))


@pytest.mark.parametrize("kind", KINDS)
def test_processes_train_as_one(kind):
    epochs, weights, record = trained(**KINDS[kind])
    [(own, alone, _)] = by(1, **KINDS[kind])
    assert own == epochs
    assert all(alone[name].tobytes() == weights[name].tobytes() for name in weights)
    for n in (2, 9):  # with 9, some have no row of a batch
        found = by(n, **KINDS[kind])
        assert all(each[0] == found[0][0] for each in found)
        for own, theirs, noted in found:
            for name, expected in weights.items():
                np.testing.assert_allclose(theirs[name], expected, rtol=2e-3, atol=2e-4)
                assert theirs[name].tobytes() == found[0][1][name].tobytes()
            for ours, one in zip(own, epochs, strict=True):
                assert ours[0] == pytest.approx(one[0], rel=1e-4)
                assert ours[3] == pytest.approx(one[3], rel=1e-3)
            for name, pairs in record.layers.items():  # the gradients of all rows
                np.testing.assert_allclose(noted.layers[name], pairs, rtol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_goes_on_with_any_number(kind):
    expected = by(3, **KINDS[kind])[0]
    state = by(3, epochs=2, **KINDS[kind])[0][2].state  # of the first
    again = by(3, start=state, **KINDS[kind])[0]
    assert again[0] == expected[0]
    assert all(again[1][name].tobytes() == p.tobytes() for name, p in expected[1].items())
    for own in (by(2, start=state, **KINDS[kind])[0], trained(start=state, **KINDS[kind])):
        assert own[0][:2] == expected[0][:2]
        for name, p in expected[1].items():
            np.testing.assert_allclose(own[1][name], p, rtol=2e-3, atol=2e-4)


def test_without_mpi4py_it_names_the_extra(train, untrained, monkeypatch):
    find = options.find_spec
    monkeypatch.setattr(options, "find_spec", lambda name: name != "mpi4py" and find(name))
    said = train("--distributed", code=2).err
    assert "--distributed needs mpi4py, which is not installed: pip install 'gradstep[mpi]'" in said
