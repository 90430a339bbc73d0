"""Sparse gradients of embeddings: the rows that are there, exactly as torch updates them."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch")

# torch asks whether it should check what sparse tensors are made of.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

import gradstep.torch as gt  # noqa: E402
from optimizer_cases import assert_same, assert_unchanged, snapshot  # noqa: E402

CASES = [
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.001, "maximize": True}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("Adagrad", {"lr": 0.1, "maximize": True, "eps": 1e-3}),
    ("SparseAdam", {"lr": 0.1}),
    ("SparseAdam", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-2, "maximize": True}),
]
KINDS = ["SGD", "Adagrad", "SparseAdam"]
REST = [name for name in gt.OPTIMIZERS if name not in KINDS]


class Network(torch.nn.Module):
    """An embedding, and weights with dense gradients behind it."""

    def __init__(self, dtype: Any = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(11, 3, sparse=True, dtype=dtype)
        self.bag = torch.nn.EmbeddingBag(7, 2, mode="sum", sparse=True, dtype=dtype)
        self.out = torch.nn.Linear(5, 2, dtype=dtype)

    def loss(self, t: int) -> Any:
        random = torch.Generator().manual_seed(t)
        words = torch.randint(0, 6, (4, 5), generator=random)  # some twice, some never
        x = torch.cat([self.table(words).mean(1), self.bag(words)], -1)
        return self.out(x).square().sum()


def groups(network: Network, name: str, options: dict[str, Any]) -> Any:
    tables = [network.table.weight, network.bag.weight]
    if name == "SparseAdam":
        return [{"params": tables, **options}]
    rate = {"lr": 0.005}
    return [{"params": tables, **options}, {"params": list(network.out.parameters()), **rate}]


def pair(name: str, options: dict[str, Any], dtype: Any = torch.float32) -> Any:
    networks = Network(dtype), Network(dtype)
    x = getattr(gt, name)(groups(networks[0], name, options))
    y = getattr(torch.optim, name)(groups(networks[1], name, options))
    return networks, x, y


def learn(networks: Any, t: int) -> None:
    for network in networks:
        network.zero_grad()
        network.loss(t).backward()
        if t == 2:  # a step in which the bag takes no part
            network.bag.weight.grad = None


def states(optimizer: Any) -> Any:
    """torch's momentum of sparse gradients is sparse itself."""
    return {
        i: {k: v.to_dense() if isinstance(v, torch.Tensor) else v for k, v in own.items()}
        for i, own in optimizer.state_dict()["state"].items()
    }


def assert_alike(networks: Any, x: Any, y: Any) -> None:
    mine, other = (list(network.parameters()) for network in networks)
    assert_same(mine, other)
    found, expected = states(x), states(y)
    for i, own in expected.items():
        own = {key: value for key, value in own.items() if value is not None}
        assert found.get(i, {}).keys() == own.keys()
        for key, value in own.items():
            torch.testing.assert_close(found[i][key], value, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_rows_train_as_in_torch(name: str, options: dict[str, Any], dtype: Any) -> None:
    networks, x, y = pair(name, options, dtype)
    begun = networks[0].table.weight.detach().clone()
    for t in range(6):
        learn(networks, t)
        x.step()
        y.step()
        assert_alike(networks, x, y)
    after = networks[0].table.weight.detach()
    assert torch.equal(after[6:], begun[6:]) and not torch.equal(after[:6], begun[:6])


@pytest.mark.parametrize(("name", "options"), CASES)
def test_checkpoints_go_both_ways(name: str, options: dict[str, Any]) -> None:
    networks, x, y = pair(name, options)
    for t in range(3):
        learn(networks, t)
        x.step()
        y.step()
    file = io.BytesIO()
    torch.save([x.state_dict(), y.state_dict()], file)
    file.seek(0)
    of_mine, of_theirs = torch.load(file, weights_only=True)
    x.load_state_dict(of_theirs)
    if "nesterov" not in options:  # torch adds no dense momentum to a sparse gradient
        y.load_state_dict(of_mine)
    for t in range(3, 6):
        learn(networks, t)
        x.step()
        y.step()
    assert_alike(networks, x, y)


def test_an_index_that_comes_twice_is_summed_first() -> None:
    weights = [torch.nn.Parameter(torch.ones(4, 2)) for _ in range(2)]
    index, values = torch.tensor([[1, 3, 1]]), torch.tensor([[1.0, 2.0], [4.0, 4.0], [3.0, -6.0]])
    weights[0].grad = torch.sparse_coo_tensor(index, values, (4, 2))
    weights[1].grad = torch.tensor([[0.0, 0.0], [4.0, -4.0], [0.0, 0.0], [4.0, 4.0]])
    sparse = gt.Adagrad(weights[:1], lr=1.0, eps=0.0)
    sparse.step()
    expected = [[1.0, 1.0], [0.0, 2.0], [1.0, 1.0], [0.0, 0.0]]
    assert weights[0].tolist() == expected
    assert sparse.state[weights[0]]["sum"].tolist() == [[0, 0], [16, 16], [0, 0], [16, 16]]


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_other_sparse_dimensions(name: str) -> None:
    """Of whole elements, of scalars' index, of no element; parameters in another order."""
    made = {
        "elements": lambda: (torch.ones(3, 4), torch.eye(3, 4).to_sparse()),
        "a vector": lambda: (torch.ones(5), torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0]).to_sparse()),
        "blocks": lambda: (torch.ones(4, 2, 3), torch.ones(4, 2, 3).to_sparse(1)),
        "none": lambda: (torch.ones(3, 2), torch.zeros(3, 2).to_sparse(1)),
        "transposed": lambda: (torch.ones(4, 3).t(), torch.eye(3, 4).to_sparse(1)),
    }
    for make in made.values():
        mine, other = (torch.nn.Parameter(make()[0]) for _ in range(2))
        x, y = getattr(gt, name)([mine]), getattr(torch.optim, name)([other])
        for _ in range(3):
            mine.grad, other.grad = make()[1], make()[1]
            x.step()
            y.step()
            assert_same([mine], [other])
            assert mine.stride() == other.stride()


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_dense_and_sparse_gradients_in_turn(name: str) -> None:
    options = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.1}
    networks, x, y = pair(name, options)
    for t in range(6):
        learn(networks, t)
        for network in networks:
            if t % 2 and network.table.weight.grad is not None:
                network.table.weight.grad = network.table.weight.grad.to_dense()
        x.step()
        if name == "SGD" and t == 0:  # torch's momentum stays of the kind it began with
            for p in (networks[1].table.weight, networks[1].bag.weight):
                p.grad = p.grad.to_dense()
        y.step()
        assert_alike(networks, x, y)


@pytest.mark.parametrize("name", KINDS)
def test_clipping_counts_dense_and_sparse_gradients(name: str) -> None:
    networks, x, y = pair(name, {"lr": 0.1})
    x.clip_norm = 0.3
    for t in range(3):
        learn(networks, t)
        x.step()
        grads = [p.grad for p in y.param_groups[0]["params"] if p.grad is not None]
        rest = [p.grad for group in y.param_groups[1:] for p in group["params"]]
        norm = sum(float(g.to_dense().double().square().sum()) for g in (*grads, *rest)) ** 0.5
        assert x.grad_norm == pytest.approx(norm, rel=1e-6)
        for g in (*grads, *rest):
            g.mul_(min(1.0, 0.3 / (norm + 1e-6)))
        y.step()
        assert_alike(networks, x, y)


@pytest.mark.parametrize("where", ["sparse", "dense"])
@pytest.mark.parametrize("what", ["skip", "raise"])
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_gradients_that_are_not_finite_write_nothing(name: str, what: Any, where: str) -> None:
    (network, _), x, _ = pair(name, {"lr": 0.1})
    x.on_nonfinite = what
    learn([network], 0)
    x.step()
    learn([network], 1)
    bad = network.table.weight if where == "sparse" else network.out.weight
    (bad.grad._values() if where == "sparse" else bad.grad)[0, 0] = float("nan")
    before = [p.detach().clone() for p in network.parameters()], copy.deepcopy(states(x))
    if what == "skip":
        x.step()
        assert x.skipped
    else:
        with pytest.raises(FloatingPointError, match=r"\.grad: 1 of \d+ elements are not finite$"):
            x.step()
    after = [p.detach() for p in network.parameters()], states(x)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_zero_grads_empties_sparse_gradients_too() -> None:
    (network, _), x, _ = pair("SGD", {"lr": 0.1})
    x.zero_grads = True
    learn([network], 0)
    x.step()
    assert network.table.weight.grad._nnz() == 0 and not network.out.weight.grad.any()


@pytest.mark.parametrize("name", KINDS)
def test_backward_through_rows_that_changed_is_torchs_error(name: str) -> None:
    (network, _), x, _ = pair(name, {"lr": 0.1})
    learn([network], 0)
    loss = network.table.weight.square().sum()
    x.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_grad_scaler_unscales_rows() -> None:
    networks, x, y = pair("Adagrad", {"lr": 0.1})
    fused = torch.amp.GradScaler("cpu", init_scale=64.0)
    for t in range(3):
        networks[0].zero_grad()
        fused.scale(networks[0].loss(t)).backward()
        learn(networks[1:], t) if t != 2 else networks[1].zero_grad()
        if t == 2:
            networks[1].loss(t).backward()
        fused.step(x)
        fused.update()
        y.step()
        assert_alike(networks, x, y)


# Refusals


def refused(name: str, change: Any, kind: type[Exception], message: str) -> None:
    (network, _), x, _ = pair(name, {"lr": 0.1})
    learn([network], 0)
    x.step()
    learn([network], 1)
    change(network, x)
    params = [p for p in network.parameters() if p is not network.table.weight]
    before = snapshot(params, x), network.table.weight.detach().clone()
    with pytest.raises(kind, match=message):
        x.step()
    assert torch.equal(network.table.weight, before[1])
    params_now = [p.detach() for p in params]
    torch.testing.assert_close(params_now, before[0][0], rtol=0, atol=0)


@pytest.mark.parametrize("key", ["weight_decay", "l1"])
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_decay_of_all_rows_is_refused(name: str, key: str) -> None:
    def change(network: Network, optimizer: Any) -> None:
        optimizer.param_groups[0][key] = 0.1

    label = r"params\['group 0, parameter 0'\]"
    message = rf"^param_groups\[0\]: {key}: 0.1, expected 0 with the sparse gradient of {label}$"
    refused(name, change, ValueError, message)


@pytest.mark.parametrize("name", KINDS)
def test_sparse_gradients_that_do_not_fit_are_refused(name: str) -> None:
    what = r"^params\['group 0, parameter 0'\]"

    def wide(network: Network, _: Any) -> None:
        weight = network.table.weight
        grad = weight.grad.double()
        weight.grad = None
        weight.data = weight.data.double()
        weight.grad = grad
        weight.data = weight.data.float()

    def freed(network: Network, _: Any) -> None:
        network.table.weight.grad._values().untyped_storage().resize_(0)

    refused(name, wide, TypeError, rf"{what}\.grad: torch.float64, expected torch.float32")
    refused(name, freed, TypeError, rf"{what}\.grad: values its storage holds nothing")


@pytest.mark.parametrize("name", REST)
def test_the_others_refuse_sparse_gradients_and_say_who_takes_them(name: str) -> None:
    network = Network()
    opt = gt.OPTIMIZERS[name](network.parameters())
    learn([network], 0)
    before = snapshot([network.out.weight], opt)
    with pytest.raises(TypeError, match=r"\.grad: layout torch.sparse_coo, .* SparseAdam, SGD and"):
        opt.step()
    assert_unchanged(before, [network.out.weight], opt)


def test_sparse_adam_refuses_dense_gradients() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = gt.SparseAdam([p])
    message = r"^params\['group 0, parameter 0'\]\.grad: dense, .* use gradstep\.torch\.Adam$"
    with pytest.raises(TypeError, match=message):
        opt.step()
    assert p.tolist() == [1.0] * 3 and not opt.state
