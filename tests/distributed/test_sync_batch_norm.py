"""Batch norm over ranks: that of the whole batch, on each rank's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
import pytest
from gradstep.nn import BatchNorm

Ranks = Callable[..., list[Any]]
# Rows of each rank: uneven, and one without any.
ROWS = (5, 0, 9, 2)
SPANS = [slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1])) for rank in range(len(ROWS))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("axis", "shape"), [(1, (16, 6, 4, 3)), (-1, (16, 5, 6)), (1, (16, 6))])
@pytest.mark.parametrize("affine", [True, False])
def test_ranks_normalise_as_one_process_does(
    ranks: Ranks, dtype: Any, axis: int, shape: tuple[int, ...], affine: bool
) -> None:
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype(dtype) * 3 + 1 for _ in range(2))
    weight, bias = (rng.standard_normal(6).astype(dtype) if affine else None for _ in range(2))

    def running() -> list[Any]:
        return [np.full(6, 0.5, dtype), np.full(6, 2.0, dtype)]

    own = running()
    y, mean, invstd = gs.batch_norm(x, weight, bias, *own, training=True, axis=axis)
    dx, dweight, dbias = gs.batch_norm_backward(dy, x, weight, mean, invstd, axis=axis)

    def work(transport: Any) -> Any:
        rows, stats = SPANS[transport.rank], running()
        part, m, s = gd.sync_batch_norm(x[rows], weight, bias, *stats, comm=transport, axis=axis)
        grads = gd.sync_batch_norm_backward(
            dy[rows], x[rows], weight, m, s, comm=transport, axis=axis
        )
        return part, m, s, stats, grads

    found = ranks(len(ROWS), work)
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for rows, (part, m, s, stats, grads) in zip(SPANS, found, strict=True):
        np.testing.assert_allclose(part, y[rows], **near)
        np.testing.assert_allclose(grads[0], dx[rows], **near)
        assert (m == found[0][1]).all() and (s == found[0][2]).all()  # the same bits
        np.testing.assert_allclose(m, mean, rtol=1e-12)
        np.testing.assert_allclose(s, invstd, rtol=1e-12)
        for one, other in zip(stats, own, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(sum(each[4][1] for each in found), dweight, **near)
    np.testing.assert_allclose(sum(each[4][2] for each in found), dbias, **near)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("activation", ["relu", None])
def test_layers_that_are_synchronized_normalise_as_one(
    ranks: Ranks, momentum: Any, activation: Any
) -> None:
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 16, 6))

    def work(transport: Any) -> Any:
        layer = BatchNorm(6, momentum=momentum, activation=activation, dtype=np.float64)
        layer.params["weight"][:] = np.arange(-2, 4)
        layer.params["bias"][:] = 0.3
        rows = slice(0, 16)
        if transport is not None:
            gd.synchronize(layer, transport)
            rows = SPANS[transport.rank]
        found = []
        for _ in range(3):
            found.append(layer.forward(x[rows]).copy())
            found.append(layer.backward(dy[rows]).copy())
        return found, layer.grads, layer.buffers, layer.forward(x, False)

    outputs, grads, buffers, inferred = work(None)
    found = ranks(len(ROWS), work)
    for i, expected in enumerate(outputs):
        together = np.concatenate([each[0][i] for each in found])
        np.testing.assert_allclose(together, expected, rtol=1e-9, atol=1e-11)
    for name, expected in grads.items():
        np.testing.assert_allclose(sum(each[1][name] for each in found), expected, rtol=1e-9)
    for _, _, own, said in found:
        for name, buffer in buffers.items():
            np.testing.assert_allclose(own[name], buffer, rtol=1e-12)
        np.testing.assert_allclose(said, inferred, rtol=1e-9, atol=1e-12)


def test_what_one_rank_refuses_is_an_error_of_all(ranks: Ranks) -> None:
    def bad(transport: Any) -> Any:
        x = np.ones((4, 3) if transport.rank else (4,))
        gd.sync_batch_norm(x, None, None, None, None, comm=transport)

    def other_channels(transport: Any) -> Any:
        x = np.ones((4, 3 + transport.rank))
        gd.sync_batch_norm(x, None, None, None, None, comm=transport)

    def one_row(transport: Any) -> Any:
        x = np.ones((1 - transport.rank, 3))
        gd.sync_batch_norm(x, None, None, None, None, comm=transport)

    def frozen(transport: Any) -> Any:
        stats = np.zeros(3), np.ones(3)
        stats[1].flags.writeable = transport.rank != 0
        try:
            gd.sync_batch_norm(np.full((4, 3), 9.0), None, None, *stats, comm=transport)
        finally:
            assert (stats[0] == 0).all() and (stats[1] == 1).all()

    def other_weight(transport: Any) -> Any:
        weight = np.ones(3, np.float64 if transport.rank else np.float32)
        gd.sync_batch_norm(np.ones((4, 3)), weight, None, None, None, comm=transport)

    for work, said in ((frozen, "running_var"), (other_weight, "weight")):
        first, second = ranks(2, work)
        assert isinstance(first, (TypeError, ValueError)) and str(first).startswith(said)
        assert isinstance(second, gd.DistributedError) and said in str(second)
    first, second = ranks(2, bad)
    assert isinstance(first, ValueError)
    assert isinstance(second, gd.DistributedError) and str(second).startswith("rank 0: ValueError")
    assert [str(each) for each in ranks(2, other_channels)] == [
        "rank 1: 4 channels, expected 3",
        "rank 0: 3 channels, expected 4",
    ]
    assert all("one value per channel over all ranks" in str(each) for each in ranks(2, one_row))
    with pytest.raises(TypeError, match="comm: NoneType, expected a Transport, such as"):
        gd.sync_batch_norm(np.ones((4, 3)), None, None, None, None, comm=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^model: int, expected a layer or network of gradstep.nn"):
        gd.synchronize(3, gd.in_process(1)[0])  # type: ignore[arg-type]
