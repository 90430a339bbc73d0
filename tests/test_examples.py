"""The examples run, say and draw what the page about them says, at settings of a few seconds."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gradstep.train import datasets

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("mlxtend")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
adam_paper: Any = importlib.import_module("adam_paper")
batch_sizes: Any = importlib.import_module("batch_sizes")
vanishing_gradients: Any = importlib.import_module("vanishing_gradients")

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


@pytest.mark.parametrize("module", [adam_paper, batch_sizes, vanishing_gradients])
def test_pictures_of_the_page_are_there_and_small(module: Any) -> None:
    assert drawn(module.PICTURE)
    page = module.PICTURE.parents[1] / "examples.md"
    assert f"examples/{module.PICTURE.name}" in page.read_text("utf-8")
