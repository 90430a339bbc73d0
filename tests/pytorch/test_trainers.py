"""Lightning and Accelerate train with our optimizers and modules as with torch's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
# These libraries warn of deprecations, few workers and the like.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS, FEATURES, CLASSES, BATCH = 64, 12, 3, 16


def rows() -> Any:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, FEATURES, generator=random)
    y = (x @ torch.randn(FEATURES, CLASSES, generator=random)).argmax(-1)
    return torch.utils.data.TensorDataset(x, y)


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(FEATURES, 16, bias=False),
        torch.nn.BatchNorm1d(16),
        torch.nn.ReLU(),
        torch.nn.LayerNorm(16),
        torch.nn.Linear(16, CLASSES),
    )


def sides() -> list[tuple[Any, Any]]:
    """A network and an optimizer class: torch's, and ours."""
    ours: Any = importlib.import_module("gradstep.torch")
    accelerated = network()
    assert len(ours.accelerate(accelerated).replaced) == 2
    return [(network(), torch.optim.AdamW), (accelerated, ours.AdamW)]


def assert_same(ours: Any, theirs: Any) -> None:
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def by_lightning(
    lightning: Any,
    network: Any,
    make: Callable[..., Any],
    folder: Path,
    resume: bool = False,
    precision: Any = None,
) -> Any:
    """Three epochs with a schedule and clipped gradients; or two, a checkpoint and the third."""

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = make(self.parameters(), lr=1e-2)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]

    def trainer(epochs: int) -> Any:
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            gradient_clip_val=1.0,
            precision=precision,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    module, loader = Module(), torch.utils.data.DataLoader(rows(), BATCH)
    if not resume:
        trainer(3).fit(module, loader)
        return module
    first = trainer(2)
    first.fit(module, loader)
    first.save_checkpoint(folder / "epoch2.ckpt")
    trainer(3).fit(module, loader, ckpt_path=folder / "epoch2.ckpt")
    return module


@pytest.mark.parametrize("resume", [False, True], ids=["at once", "resumed"])
def test_lightning_trains_as_with_torch(resume: bool, tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning")
    (stock, theirs), (accelerated, ours) = sides()
    begun = network()
    by_lightning(lightning, stock, theirs, tmp_path)
    module = by_lightning(lightning, accelerated, ours, tmp_path, resume)
    assert isinstance(module.optimizers(use_pl_optimizer=False), ours)
    assert module.lr_schedulers().get_last_lr() == [pytest.approx(1e-2 / 8)]
    assert_same(accelerated, stock)
    assert not torch.equal(accelerated[0].weight, begun[0].weight)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_lightning_clips_under_mixed_precision(precision: str, tmp_path: Path) -> None:
    """It refuses to, for a class that takes the scale of a GradScaler itself."""
    lightning: Any = pytest.importorskip("lightning")
    (stock, theirs), (accelerated, ours) = sides()
    by_lightning(lightning, stock, theirs, tmp_path, precision=precision)
    by_lightning(lightning, accelerated, ours, tmp_path, precision=precision)
    for name, value in stock.state_dict().items():
        # bfloat16 carries 8 bits: what rounds the other way is off by 2**-8 of the activation.
        torch.testing.assert_close(accelerated.state_dict()[name], value, rtol=3e-2, atol=3e-2)


def test_accelerate_trains_as_with_torch_and_its_state_comes_back(tmp_path: Path) -> None:
    accelerate: Any = pytest.importorskip("accelerate")
    for network, make in (pairs := sides()):
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        optimizer = make(network.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        loader = torch.utils.data.DataLoader(rows(), BATCH)
        model, optimizer, loader, schedule = accelerator.prepare(
            network, optimizer, loader, schedule
        )
        epoch(accelerator, model, optimizer, loader, schedule)
        accelerator.save_state(str(tmp_path / make.__module__))
        epoch(accelerator, model, optimizer, loader, schedule)
        after = {name: value.clone() for name, value in network.state_dict().items()}
        accelerator.load_state(str(tmp_path / make.__module__))
        epoch(accelerator, model, optimizer, loader, schedule)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, after[name], rtol=0, atol=0)
        assert schedule.get_last_lr()[0] < 1e-2
    assert_same(pairs[1][0], pairs[0][0])


def epoch(accelerator: Any, model: Any, optimizer: Any, loader: Any, schedule: Any) -> None:
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(torch.nn.functional.cross_entropy(model(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
