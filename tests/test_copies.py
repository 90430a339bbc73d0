"""A copied optimizer never steps on gradients that nobody but itself can fill."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gradstep as gs
import numpy as np
import pytest

ALONE = "grads: None, expected arrays: this optimizer is a copy and the gradients it was bound to "
carried = pytest.mark.parametrize(
    "carry",
    [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))],
    ids=["copy", "pickle"],
)


def bound() -> tuple[Any, Any, gs.Optimizer]:
    w, g = [np.zeros(3), np.zeros(2)], [np.ones(3), np.ones(2)]
    optimizer = gs.SGD(w, lr=1.0)
    optimizer.bind(g)
    optimizer.step()
    return w, g, optimizer


@carried
def test_a_copy_alone_must_be_bound(carry: Any) -> None:
    _, _, optimizer = bound()
    twin = carry(optimizer)
    for step in (twin.step, twin.reference_step):
        with pytest.raises(ValueError, match=f"^{ALONE}"):
            step()
    assert twin.step_count == 1 and [a.tolist() for a in twin._arrays] == [[-1.0] * 3, [-1.0] * 2]
    assert twin.step([np.ones(3), np.ones(2)]).step == 2
    again = carry(twin)
    with pytest.raises(ValueError, match=r"^grads: None, expected arrays, or buffers"):
        again.step()
    buffers = [np.ones(3), np.ones(2)]
    twin.bind(buffers)
    assert twin.step().step == 3 and optimizer.step().step == 2


@carried
@pytest.mark.parametrize("first", [True, False])
def test_copied_together_they_stay_together(carry: Any, first: bool) -> None:
    _, g, optimizer = bound()
    if first:
        twin, grads = carry((optimizer, g))
    else:
        grads, twin = carry((g, optimizer))
    for array in grads:
        array[...] = 10.0
    twin.step()
    assert [a.tolist() for a in twin._arrays] == [[-11.0] * 3, [-11.0] * 2]
    again, more = carry((twin, grads))
    more[0][...] = 100.0
    again.reference_step()
    assert [a.tolist() for a in again._arrays] == [[-111.0] * 3, [-21.0] * 2]


@carried
def test_some_of_the_gradients_are_not_enough(carry: Any) -> None:
    _, g, optimizer = bound()
    twin, _kept = carry((optimizer, g[0]))
    with pytest.raises(ValueError, match=f"^{ALONE}"):
        twin.step()


@carried
def test_a_tensor_without_gradient_stays_without(carry: Any) -> None:
    w, g = [np.zeros(3), np.zeros(2)], [None, np.ones(2)]
    optimizer = gs.SGD(w, lr=1.0)
    optimizer.bind(g)
    twin, _grads = carry((optimizer, g))
    twin.step()
    assert [a.tolist() for a in twin._arrays] == [[0.0] * 3, [-1.0] * 2]


def test_a_skipped_step_clears_the_gradients_where_asked() -> None:
    w, g = np.zeros(3), np.array([1.0, np.nan, 2.0])
    optimizer = gs.SGD(w, lr=1.0, on_nonfinite="skip")
    optimizer.bind(g)
    assert optimizer.step().skipped and np.isnan(g[1])
    assert optimizer.step(zero_grads=True).skipped and g.tolist() == [0.0] * 3
    g += 1.0  # an accumulating loop goes on
    assert optimizer.step(zero_grads=True) == (1, 1.0, 3**0.5, False)
    assert w.tolist() == [-1.0] * 3 and g.tolist() == [0.0] * 3
    given = [np.array([np.inf, 1.0, 1.0])]
    assert gs.SGD([w], on_nonfinite="skip").step(given, zero_grads=True).skipped
    assert given[0].tolist() == [0.0] * 3
    raising = gs.SGD([w], on_nonfinite="raise")
    given[0][0] = np.inf
    with pytest.raises(FloatingPointError, match=r"grads\[0\]: 1 of 3"):
        raising.step(given, zero_grads=True)
    assert given[0].tolist() == [np.inf, 0.0, 0.0]  # raising writes nothing
