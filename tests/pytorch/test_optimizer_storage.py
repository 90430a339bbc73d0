"""A step leaves no mark on the memory of tensors, and follows what becomes of it."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from optimizer_cases import (  # noqa: E402
    NAMES,
    assert_same,
    assert_unchanged,
    give,
    ours,
    parameters,
    snapshot,
    theirs,
    twins,
)
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402


def saved_size(value: Any) -> int:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getbuffer().nbytes


@pytest.mark.parametrize("options", [{}, {"zero_grads": True}, {"clip_norm": 1.0}], ids=repr)
@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_storages_can_still_be_resized(name: str, options: dict[str, Any]) -> None:
    mine = parameters()
    opt = ours(name, mine, **options)
    for t in range(2):
        give([mine], t)
        opt.step()
    states = [v for own in opt.state.values() for v in own.values()]
    for tensor in (*(p.data for p in mine), *(p.grad for p in mine), *states):
        assert tensor.untyped_storage().resizable()
        tensor.untyped_storage().resize_(1000)


def test_parameters_whose_storage_is_freed_and_filled_again_are_followed() -> None:
    """As FSDP does with gathered parameters."""
    mine, other = twins()
    x, y = ours("AdamW", mine), theirs("AdamW", other)
    for t in range(4):
        give((mine, other), t)
        x.step()
        y.step()
        kept = [p.detach().clone() for p in mine]
        for p, values in zip(mine, kept, strict=True):
            storage, size = p.untyped_storage(), p.untyped_storage().nbytes()
            storage.resize_(0)
            storage.resize_(size)
            p.data.copy_(values)
    assert_same(mine, other, x, y)


@pytest.mark.parametrize("left", [0, 4], ids=["freed", "too small"])
@pytest.mark.parametrize("what", ["parameter", "gradient", "state"])
def test_storage_that_is_too_small_is_refused(what: str, left: int) -> None:
    p, q = (torch.nn.Parameter(torch.ones(1000)) for _ in range(2))
    opt = ours("Adam", [q, p])
    p.grad = torch.ones(1000)
    q.grad = torch.ones(1000)
    if what == "state":
        opt.step()
    before = snapshot([q], opt)
    tensor = {"parameter": p.data, "gradient": p.grad, "state": None}[what]
    if tensor is None:
        tensor = opt.state[p]["exp_avg"]
    tensor.untyped_storage().resize_(left)
    place = {
        "parameter": r"params\['group 0, parameter 1'\]",
        "gradient": r"params\['group 0, parameter 1'\]\.grad",
        "state": r"state\['group 0, parameter 1'\]\['exp_avg'\]",
    }[what]
    holds = "its storage holds nothing" if left == 0 else "1 elements in its storage, expected 1000"
    with pytest.raises((TypeError, ValueError), match=f"^{place}: {holds}"):
        opt.step()
    torch.testing.assert_close(snapshot([q], opt)[0], before[0], rtol=0, atol=0)


def fake_gradient(p: Any) -> Any:
    with FakeTensorMode():
        return torch.ones(p.shape)


GRADIENTS = {
    "fake": (fake_gradient, "FakeTensor"),
    "zeros without memory": (lambda p: torch._efficientzerotensor(p.shape), "zeros without memory"),
    "negated": (lambda p: torch._neg_view(torch.ones_like(p)), "lazily negated"),
    "of a conjugate": (lambda p: torch.ones(p.shape, dtype=torch.complex64).conj().imag, "negated"),
    "functional": (lambda p: torch._to_functional_tensor(torch.ones_like(p)), "functional"),
}


@pytest.mark.parametrize("zero_grads", [False, True])
@pytest.mark.parametrize("started", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize("what", GRADIENTS)
def test_gradients_that_are_not_their_memory_are_refused(
    what: str, started: bool, zero_grads: bool
) -> None:
    make, words = GRADIENTS[what]
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = ours("SGD", [q, p], lr=0.5, zero_grads=zero_grads)
    p.grad = q.grad = None
    if started:
        p.grad, q.grad = torch.ones(3), torch.ones(3)
        opt.step()
    before = q.tolist(), p.tolist()
    q.grad = torch.ones(3)
    p.grad = None
    bad = make(p)
    try:
        p.grad = bad
    except RuntimeError:
        pytest.skip("torch does not take it for a gradient")
    with pytest.raises(
        TypeError, match=rf"^params\['group 0, parameter 1'\]\.grad: .*(?i:{words})"
    ):
        opt.step()
    assert (q.tolist(), p.tolist()) == before


@pytest.mark.parametrize("name", NAMES)
def test_fake_parameters_step_as_in_torch(name: str) -> None:
    with FakeTensorMode():
        model = torch.nn.Linear(3, 2)
        opt = ours(name, model.parameters())
        peer = getattr(torch.optim, name)(torch.nn.Linear(3, 2).parameters())
        for _ in range(2):
            model(torch.ones(4, 3)).sum().backward()
            opt.step()
        for p, q in zip(model.parameters(), peer.param_groups[0]["params"], strict=True):
            q.grad = torch.ones_like(q)
            peer.step()
            assert opt.state[p].keys() == peer.state[q].keys()
            for key, value in opt.state[p].items():
                assert type(value) is type(peer.state[q][key])
                assert value.shape == peer.state[q][key].shape


def test_fake_parameters_of_lion_are_refused() -> None:
    with FakeTensorMode():
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        opt = ours("Lion", [p])
        with pytest.raises(TypeError, match=r"^Lion: FakeTensor parameters"):
            opt.step()


@pytest.mark.parametrize("name", NAMES)
def test_saved_states_are_as_small_as_torchs(name: str) -> None:
    mine, other = [[torch.nn.Parameter(torch.ones(4)) for _ in range(300)] for _ in range(2)]
    x, y = ours(name, mine), theirs(name, other)
    for p in (*mine, *other):
        p.grad = torch.ones(4)
    x.step()
    y.step()
    assert saved_size(x.state_dict()) <= saved_size(y.state_dict()) + 64
    if mine[0] in x.state:
        assert saved_size(x.state[mine[0]]) <= saved_size(y.state[other[0]]) + 64
    storages = [v.untyped_storage().data_ptr() for own in x.state.values() for v in own.values()]
    assert len(storages) == len(set(storages))  # safetensors refuses shared memory


@pytest.mark.parametrize("name", ["Adam", "NAdam"])
def test_step_counters_stay_the_same_tensors(name: str) -> None:
    mine = parameters()
    opt = ours(name, mine)
    give([mine], 0, (1,))
    opt.step()
    kept = opt.state[mine[0]]["step"]
    for t in range(1, 4):
        give([mine], t)
        opt.step()  # binds again: one more parameter has a gradient
    assert opt.state[mine[0]]["step"] is kept and kept == 4
    assert opt.state[mine[1]]["step"] == 3


def test_a_counter_that_two_parameters_share_is_counted_once() -> None:
    mine, other = twins()
    x, y = ours("Adam", mine), theirs("Adam", other)
    shared = torch.tensor(5.0)
    for optimizer, params in ((x, mine), (y, other)):
        for p in params:
            optimizer.state[p] = {
                "step": shared if optimizer is x else torch.tensor(5.0),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.ones_like(p),
            }
    for t in range(3):
        give((mine, other), t)
        x.step()
        y.step()
    assert_same(mine, other, x, y)


def test_memory_that_another_thread_replaces_during_steps_stays_alive() -> None:
    p = torch.nn.Parameter(torch.zeros(200_000))
    opt = ours("Adam", [p])
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            p.data = p.data.clone()
            own = opt.state.get(p, {})
            if "exp_avg" in own:
                own["exp_avg"] = own["exp_avg"].clone()
                own["step"].data = own["step"].data.clone()

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(200):
            p.grad = torch.ones(200_000)
            opt.step()
    finally:
        stop.set()
        thread.join()
    assert p.isfinite().all()


def test_an_optimizer_in_two_threads_at_once_steps_or_says_so() -> None:
    mine = [torch.nn.Parameter(torch.zeros(100_000)) for _ in range(3)]
    opt = ours("Adam", mine)
    give([mine], 0)
    opt.step()
    wrong: list[BaseException] = []

    def work() -> None:
        for _ in range(50):
            try:
                opt.step()
            except RuntimeError as error:
                if "in the middle of a step" not in str(error):
                    wrong.append(error)
            except BaseException as error:
                wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_is_written_where_a_later_tensor_is_refused() -> None:
    mine = parameters()
    opt = ours("Adam", mine)
    give([mine], 0)
    opt.step()
    before = snapshot(mine[:-1], opt)
    mine[-1].data.untyped_storage().resize_(0)
    with pytest.raises(TypeError, match="its storage holds nothing"):
        opt.step()
    assert_unchanged(before, mine[:-1], opt)


def test_numbers_that_count_are_checked() -> None:
    from gradstep import _core

    one, two = torch.tensor(1.0), torch.tensor(2.0, dtype=torch.float64)
    numbers = _core.TensorNumbers([one, two])
    numbers.count(None)
    numbers.count([1])
    assert (one.item(), two.item()) == (2.0, 4.0) and numbers.unchanged()
    one.fill_(7)
    assert not numbers.unchanged()
    with pytest.raises(IndexError, match=r"^places: 2, expected 0 to 1$"):
        numbers.count([0, 2])
    with pytest.raises(ValueError, match=r"^values: 1, expected 2$"):
        numbers.write([0.0])
    assert (one.item(), two.item()) == (7.0, 4.0)
    for bad in (torch.ones(2), torch.tensor(1), 1.0, torch.tensor(1.0).half(), None):
        with pytest.raises(TypeError, match=r"^tensors: expected one float32 or float64"):
            _core.TensorNumbers([one, bad])
