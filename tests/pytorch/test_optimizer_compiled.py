"""torch.compile leaves a step as it is: one graph break, and nothing of its bookkeeping lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from optimizer_cases import assert_same, give, ours, theirs, twins  # noqa: E402

# torch's compiler warns of its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def breaks() -> int:
    return sum(torch._dynamo.utils.counters["graph_break"].values())


def compiled(function: Callable[..., Any]) -> Any:
    return torch.compile(function, backend="eager")


@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_a_compiled_step_is_the_step(name: str) -> None:
    mine, other = twins()
    x, y = ours(name, mine, clip_norm=0.5), ours(name, other, clip_norm=0.5)
    step = compiled(x.step)
    for t in range(4):
        give((mine, other), t)
        versions = [p._version for p in mine]
        step()
        y.step()
        assert x.grad_norm == y.grad_norm is not None
        assert [p._version for p in mine] == [v + 1 for v in versions]
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
        assert x.state_dict()["state"].keys() == y.state_dict()["state"].keys()
    assert breaks() <= 1


def test_a_compiled_training_step_breaks_once_and_is_not_compiled_again() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    twin = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    twin.load_state_dict(model.state_dict())
    x = ours("AdamW", model.parameters(), lr=0.1, clip_norm=0.5, on_nonfinite="skip")
    y = theirs("AdamW", twin.parameters(), lr=0.1)

    def forward(data: Any) -> Any:
        return model(data).square().mean()

    @compiled
    def train(data: Any) -> Any:
        loss = forward(data)
        x.step()
        return loss * 2

    data = torch.randn(6, 4)
    graphs = []
    for _ in range(5):
        for p in (*model.parameters(), *twin.parameters()):
            p.grad = None
        forward(data).backward()
        twin(data).square().mean().backward()
        train(data)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        y.step()
        assert x.grad_norm is not None and not x.skipped
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        assert_same(list(model.parameters()), list(twin.parameters()), x, y)
    assert breaks() == 1
    assert len(set(graphs[1:])) == 1
    next(model.parameters()).grad[0, 0] = float("nan")
    train(data)
    assert x.skipped


def test_backward_through_weights_that_a_compiled_step_changed_is_torchs_error() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = ours("SGD", [p])

    @compiled
    def step(data: Any) -> Any:
        opt.step()
        return data + 1

    loss = (p * p).sum()
    step(torch.ones(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_compiled_step_with_a_closure() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    opt = ours("Adam", [p], lr=0.1)

    def closure() -> Any:
        opt.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    step = compiled(opt.step)
    losses = [float(step(closure)) for _ in range(3)]
    assert losses[0] == 3.0 and losses == sorted(losses, reverse=True) and losses[2] < losses[0]
