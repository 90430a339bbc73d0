"""The examples run, say and draw what the page about them says, at settings of a few seconds."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradstep.train import datasets

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("mlxtend")

adam_paper: Any = importlib.import_module("examples.adam_paper")
batch_sizes: Any = importlib.import_module("examples.batch_sizes")
click_through: Any = importlib.import_module("examples.click_through")
vanishing_gradients: Any = importlib.import_module("examples.vanishing_gradients")

LARGEST_PICTURE = 150_000  # bytes


@cache
def mnist() -> Any:
    return datasets.mnist5k()


@pytest.fixture(autouse=True)
def mnist_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (adam_paper, batch_sizes):
        monkeypatch.setattr(module, "mnist5k", mnist)


def drawn(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < LARGEST_PICTURE


def test_the_adam_paper_compares_every_optimizer_twice(tmp_path: Path) -> None:
    results = adam_paper.compare(adam_paper.data(rows=256), epochs=3, factors=(1.0,))
    assert [list(runs) for runs in results.values()] == 2 * [list(adam_paper.OPTIMIZERS)]
    for runs in results.values():
        for rate, history in runs.values():
            losses = [epoch.train_loss for epoch in history.epochs]
            assert rate > 0 and losses[-1] < losses[0]
    text = adam_paper.report(results)
    assert text.count("validation accuracy") == 10 and "Nesterov" in text
    adam_paper.draw(results, tmp_path / "picture.png")
    assert drawn(tmp_path / "picture.png")


def test_the_best_of_several_rates_is_shown() -> None:
    split = adam_paper.data(rows=256)
    setting = adam_paper.SETTINGS[0]
    runs = [adam_paper.best(setting, "adam", split, 2, (f,)) for f in (1e-4, 1.0)]
    rate, history = adam_paper.best(setting, "adam", split, 2, (1e-4, 1.0))
    assert rate == runs[1][0] and history.epochs[-1].train_loss < runs[0][1].epochs[-1].train_loss


def test_smaller_batches_need_fewer_epochs_and_more_steps(tmp_path: Path) -> None:
    split = batch_sizes.data(rows=400)
    runs = batch_sizes.fastest(split, sizes=(10, 400), rates=(0.1,), accuracy=0.6, most_epochs=60)
    small, large = runs
    assert small.epochs < large.epochs and small.steps > large.steps
    assert small.epochs == small.steps * 10 / 400 and large.epochs == large.steps
    assert len(batch_sizes.report(runs).splitlines()) == 3
    batch_sizes.draw(runs, tmp_path / "picture.png")
    assert drawn(tmp_path / "picture.png")


def test_a_size_that_does_not_get_there_is_left_out() -> None:
    split = batch_sizes.data(rows=100)
    assert batch_sizes.fastest(split, (100,), (0.01,), accuracy=0.99, most_epochs=1) == []


def test_gradients_vanish_with_sigmoids_alone(tmp_path: Path) -> None:
    runs = vanishing_gradients.compare(vanishing_gradients.data(), width=32, epochs=3)
    ratios = [run.gradients[0] / run.gradients[-1] for run in runs.values()]
    assert ratios[0] < 1e-4 and all(0.02 < ratio < 50 for ratio in ratios[1:])
    assert all(len(run.gradients) == 11 for run in runs.values())
    losses = [run.history.final.train_loss for run in runs.values()]
    assert losses[-1] < losses[1] < losses[0]
    assert vanishing_gradients.report(runs).count("validation accuracy") == 4
    vanishing_gradients.draw(runs, tmp_path / "picture.png")
    assert drawn(tmp_path / "picture.png")


def test_auc_and_group_auc_disagree_about_models(tmp_path: Path) -> None:
    past, later = click_through.impressions(users=400, items=60)
    assert (len(past.clicked), len(later.clicked)) == (400 * 50, 400 * 25)
    runs = click_through.compare(past, later, epochs=8)
    plain, _, from_pairs = runs.values()
    assert plain.auc[-1] > from_pairs.auc[-1] + 0.03
    assert plain.group_auc[-1] < from_pairs.group_auc[-1] - 0.03
    assert "group AUC" in click_through.report(runs)
    click_through.draw(runs, tmp_path / "picture.png")
    assert drawn(tmp_path / "picture.png")


def test_pairs_are_a_click_and_none_of_one_user() -> None:
    past, _ = click_through.impressions(users=30, items=10)
    clicked = {(u, i, c) for (u, i), c in zip(past.pairs.tolist(), past.clicked, strict=True)}
    rows = 0
    for pairs, _ in click_through.by_pair(past, 64, np.random.default_rng(0)):
        above, below = np.split(pairs, 2)
        np.testing.assert_array_equal(above[:, 0], below[:, 0])
        assert {(u, i, 1) for u, i in above.tolist()} <= clicked
        assert {(u, i, 0) for u, i in below.tolist()} <= clicked
        rows += len(above)
    both = np.bincount(past.pairs[:, 0], weights=1 - past.clicked) > 0
    assert rows == past.clicked[both[past.pairs[:, 0]]].sum()


@pytest.mark.parametrize("products", [False, True])
def test_the_layer_of_embeddings_backs_up_its_sums(products: bool) -> None:
    rng = np.random.default_rng(3)
    layer = click_through.Embeddings(3, 4, products, rng)
    pairs = np.array([[0, 1], [2, 1], [0, 3]])
    dy = rng.standard_normal(layer.forward(pairs).shape).astype(np.float32)
    layer.backward(dy)
    for name, table in layer.params.items():
        kept, step = table.copy(), np.float32(1e-2)
        for at in ((0, 0), (1, 3), (2, 5)):
            values = []
            for sign in (1, -1):
                table[...] = kept
                table[at] += sign * step
                values.append(float(np.sum(layer.forward(pairs) * dy, dtype=np.float64)))
            table[...] = kept
            expected = (values[0] - values[1]) / (2 * step)
            assert layer.grads[name][at] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("module", [adam_paper, batch_sizes, click_through, vanishing_gradients])
def test_pictures_of_the_page_are_there_and_small(module: Any) -> None:
    assert drawn(module.PICTURE)
    page = module.PICTURE.parents[1] / "examples.md"
    assert f"examples/{module.PICTURE.name}" in page.read_text("utf-8")
