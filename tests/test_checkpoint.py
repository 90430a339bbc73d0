"""Checkpoints: a resumed training goes on to the bit; what does not fit changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import nn

from tests.cases import label, variants

pytest.importorskip("safetensors")

Contents = Callable[[gs.Optimizer], Any]
X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
Y = np.arange(40) % 3


class Training:
    """All that a training may have: dropout, batch norm, a schedule, a clip, averages, a source."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.net = nn.Sequential(
            nn.Linear(6, 8, rng, bias=False),
            nn.BatchNorm(8, activation="relu"),
            nn.Dropout(0.3, seed=seed),
            nn.Linear(8, 3, rng),
        )
        self.noise = gs.AlphaDropout(0.1, seed=seed + 1)
        lr = gs.warmup(5, gs.cosine(0.05, 40))
        weights = {name: p for name, p in self.net.params.items() if name.endswith("weight")}
        others = {name: p for name, p in self.net.params.items() if name not in weights}
        groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        self.opt = gs.AdamW(groups, lr=lr, clip_norm=0.5, amsgrad=True)
        self.average = {name: p.copy() for name, p in self.net.params.items()}
        self.rng = np.random.default_rng(seed)
        self.losses: list[float] = []

    def run(self, steps: int) -> None:
        params = self.opt.param_groups
        for _ in range(steps):
            rows = self.rng.permutation(len(X))[:16]
            logits = self.net.forward(self.noise(X[rows]), True)
            loss, gradient = gs.cross_entropy(logits, Y[rows])
            self.net.parameter_gradients(gradient)
            self.opt.step([{name: self.net.grads[name] for name in g["params"]} for g in params])
            gs.ewma_(self.average, self.net.params, 0.9)
            self.losses.append(loss)

    def parts(self) -> dict[str, Any]:
        return {
            "model": self.net,
            "layers": [self.noise],
            "optimizer": self.opt,
            "average": self.average,
            "rng": self.rng,
        }

    def bits(self) -> list[Any]:
        arrays = [*self.net.state_dict().values(), *self.average.values()]
        states = [a for own in self.opt.state.values() for a in own.values()]
        return [self.losses[-10:], *(a.tobytes() for a in [*arrays, *states])]


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, first, second = Training(1), Training(1), Training(2)
    whole.run(20)
    first.run(10)
    gs.save(tmp_path / "run", **first.parts(), extra={"step": 10})
    second.run(3)  # whatever it did before is forgotten
    saved = gs.load(tmp_path / "run", **second.parts())
    assert saved["extra"]["step"] == second.opt.step_count == 10
    second.run(10)
    assert second.bits() == whole.bits()


@pytest.mark.parametrize(("name", "options"), [*variants()], ids=label)
@pytest.mark.parametrize("order", "CF")
def test_every_optimizer_goes_on(
    name: str, options: dict[str, Any], order: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal((3, 5)) for _ in range(6)]
    first, second = (np.zeros((3, 5), order=order) for _ in range(2))
    ours, theirs = (gs.OPTIMIZERS[name](p, **options) for p in (first, second))
    for g in grads[:3]:
        ours.step(np.asarray(g, order=order))
    gs.save(tmp_path / "run", params=first, optimizer=ours)
    gs.load(tmp_path / "run", params=second, optimizer=theirs)
    for g in grads[3:]:
        infos = [opt.step(np.asarray(g, order=order)) for opt in (ours, theirs)]
        assert infos[0] == infos[1]
    assert first.tobytes() == second.tobytes()


def test_options_of_the_optimizer_come_back(tmp_path: Path) -> None:
    ours, theirs = gs.SGD(np.zeros(2), lr=0.5, momentum=0.9, clip_norm=2.0), gs.SGD(np.zeros(2))
    gs.save(tmp_path / "run", optimizer=ours)
    gs.load(tmp_path / "run", optimizer=theirs)
    assert (theirs.lr, theirs.momentum, theirs.clip_norm) == (0.5, 0.9, 2.0)


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators_go_on(kind: str, tmp_path: Path) -> None:
    ours, theirs = (np.random.Generator(getattr(np.random, kind)(seed)) for seed in (1, 2))
    ours.integers(0, 10, 3, dtype=np.int32)
    gs.save(tmp_path / "run", rng=ours)
    gs.load(tmp_path / "run", rng=theirs)
    assert ours.random(5).tolist() == theirs.random(5).tolist()


PLAIN = {
    "none": None,
    "flags": [True, False],
    "numbers": (1, -(2**70), 0.1, math.inf, 5e-324),
    "texts": ["", "é\n\ud800", '"'],
    "nested": {3: {"a.b": [[], {}, ()]}, -1: {"a": 1}},
}


def test_plain_values_come_back_as_they_were(tmp_path: Path) -> None:
    gs.save(tmp_path / "run", extra=PLAIN, nan=math.nan, lone=np.float32(0.1), key={np.int64(3): 1})
    saved = gs.load(tmp_path / "run")
    assert saved["extra"] == PLAIN
    assert repr(saved["extra"]["numbers"]) == repr(PLAIN["numbers"])
    assert math.isnan(saved["nan"])
    assert (saved["lone"], saved["key"]) == (float(np.float32(0.1)), {3: 1})


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3, 4)])
def test_arrays_come_back_as_they_were(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    strange = [array.T, np.repeat(array, 2, axis=-1)[..., ::2] if shape else array]
    gs.save(tmp_path / "run", model=[array, *strange])
    for found, expected in zip(gs.load(tmp_path / "run")["model"], [array, *strange], strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


def test_what_load_returns_is_read_only(tmp_path: Path) -> None:
    gs.save(tmp_path / "run", model={"w": np.zeros(2)}, optimizer=gs.Adam(np.zeros(2)))
    saved: Any = gs.load(tmp_path / "run")
    for mapping in (saved, saved["model"], saved["optimizer"]["state"][0]):
        with pytest.raises(TypeError, match="does not support item assignment"):
            mapping["w"] = 1
    with pytest.raises(ValueError, match="read-only"):
        saved["model"]["w"][0] = 1


def test_a_checkpoint_is_a_copy(tmp_path: Path) -> None:
    w = np.zeros(2)
    gs.save(tmp_path / "run", model=[w])
    saved = gs.load(tmp_path / "run", model=[w])
    w += 1
    assert saved["model"][0].tolist() == [0, 0]


UNFIT: list[tuple[Any, type[Exception], str]] = [
    ({"lr": gs.cosine(0.1, 3)}, TypeError, "extra['lr']: cosine, expected arrays, numbers"),
    ([{1, 2}], TypeError, "extra[0]: set, expected arrays"),
    (b"x", TypeError, "extra: bytes, expected arrays"),
    (gs.Adam, TypeError, "extra: type, expected arrays"),
    (np.datetime64("2020"), TypeError, "extra: date, expected arrays"),
    ({"a": np.zeros(2, complex)}, TypeError, "extra['a']: dtype complex128, expected one of"),
    (np.zeros(2, ">f4"), TypeError, "extra: dtype >f4, expected one of"),
    (np.array([None]), TypeError, "extra: dtype object, expected one of"),
    (np.ma.zeros(2), TypeError, "extra: a masked array, expected a plain numpy.ndarray"),
    ({None: 1}, TypeError, "extra: a key of NoneType, expected texts or integers"),
    ({True: 1}, TypeError, "extra: a key of bool, expected texts or integers"),
    (
        {"a.b": np.zeros(1), "a": {"b": np.zeros(1)}},
        ValueError,
        "extra['a']['b']: a second array of the name 'extra.a.b', expected one",
    ),
]


@pytest.mark.parametrize(("part", "kind", "message"), UNFIT, ids=[message for *_, message in UNFIT])
def test_what_cannot_be_saved_is_named(
    part: Any, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    gs.save(tmp_path / "run", model=1)
    with pytest.raises(kind) as caught:
        gs.save(tmp_path / "run", model=2, extra=part)
    assert str(caught.value).startswith(message)
    assert gs.load(tmp_path / "run")["model"] == 1


def test_nothing_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parts: none, expected at least one"):
        gs.save(tmp_path / "run")


def filled(value: float) -> dict[str, Any]:
    params = {"w": np.full((2, 3), value, np.float32), "b": np.full(3, value, np.float32)}
    opt = gs.SGD(params, lr=value, momentum=0.9)
    opt.step({name: np.ones_like(p) for name, p in params.items()})
    layer = nn.BatchNorm(2)
    layer.forward(np.full((2, 2), value, np.float32))
    drop = gs.Dropout(0.5, seed=int(value))
    drop(np.ones(3))
    rng = np.random.default_rng(int(value))
    return {"model": params, "optimizer": opt, "bn": layer, "drop": drop, "rng": rng}


def everything(parts: Mapping[str, Any], contents: Contents) -> list[Any]:
    return [
        {name: p.tobytes() for name, p in parts["model"].items()},
        contents(parts["optimizer"]),
        {name: a.tobytes() for name, a in parts["bn"].state_dict().items()},
        parts["drop"].state_dict(),
        parts["rng"].bit_generator.state,
    ]


def narrow() -> dict[str, Any]:
    return {"w": np.zeros((2, 2), np.float32), "b": np.zeros(3, np.float32)}


LARGE = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(3)}
FROZEN = np.zeros(3, np.float32)
FROZEN.flags.writeable = False

MISFITS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": narrow()}, ValueError, "model['w']: shape (2, 3) in the file, expected (2, 2)"),
    ({"model": LARGE}, TypeError, "model['b']: dtype float32 in the file, expected float64"),
    ({"model": {"w": 1}}, ValueError, "model: an unknown 'b' in the file, expected 'w'"),
    ({"model": narrow() | {"c": 1}}, ValueError, "model: no 'c' in the file, expected 'w', 'b',"),
    ({"model": []}, TypeError, "model: dict in the file, expected a sequence"),
    ({"model": np.zeros(2)}, TypeError, "model: dict in the file, expected an array"),
    ({"model": nn.BatchNorm(3)}, ValueError, "model: no 'weight' in the file"),
    ({"bn": nn.BatchNorm(3)}, ValueError, "bn['weight']: shape (2,) in the file, expected (3,)"),
    (
        {"bn": nn.BatchNorm(2, dtype=np.float64)},
        TypeError,
        "bn['weight']: dtype float32 in the file, expected float64",
    ),
    ({"extra": {"a": 1, "b": FROZEN}}, TypeError, "extra['a']: int, expected arrays or objects"),
    ({"array": FROZEN}, ValueError, "array: read-only, expected a writable array"),
    ({"array": np.zeros(6, np.float32)[::2]}, ValueError, "array: not contiguous, expected C or F"),
    ({"array": [1, 2]}, TypeError, "array: ndarray in the file, expected a sequence"),
    ({"several": [FROZEN]}, ValueError, "several: 2 entries in the file, expected 1"),
    ({"optimizer": gs.Adam(narrow())}, ValueError, "optimizer: state_dict: of SGD, expected Adam"),
    (
        {"optimizer": gs.SGD(narrow(), momentum=0.9)},
        ValueError,
        "optimizer: state_dict['state']['w']['momentum_buffer']: shape (2, 3), expected (2, 2)",
    ),
    ({"drop": gs.DropPath(0.5, 1)}, ValueError, "drop: state_dict['layer']: 'Dropout', expected"),
    ({"rng": np.random.Generator(np.random.SFC64())}, ValueError, "rng: state of PCG64, expected"),
    ({"drop": np.random.default_rng()}, ValueError, "drop: state of None, expected PCG64"),
    ({"unknown": FROZEN}, ValueError, "unknown: not in "),
]


@pytest.mark.parametrize(
    ("targets", "kind", "message"), MISFITS, ids=[message for *_, message in MISFITS]
)
@pytest.mark.parametrize("first", [True, False])
def test_what_does_not_fit_changes_nothing(
    targets: dict[str, Any],
    kind: type[Exception],
    message: str,
    first: bool,
    tmp_path: Path,
    contents: Contents,
) -> None:
    saved = filled(1.0) | {"array": FROZEN, "several": [1, 2], "extra": {"a": 1, "b": FROZEN}}
    gs.save(tmp_path / "run", **saved)
    live = filled(2.0)
    live["optimizer"].momentum = 0.0  # loading would bring other state arrays
    live["optimizer"].step({name: np.ones_like(p) for name, p in live["model"].items()})
    before = everything(live, contents)
    good = {name: part for name, part in live.items() if name not in targets}
    with pytest.raises(kind) as caught:
        gs.load(tmp_path / "run", **(targets | good if first else good | targets))
    assert str(caught.value).startswith(message)
    assert everything(live, contents) == before


class Stubborn:
    """An object whose state can only be tried."""

    def __init__(self) -> None:
        self.value = np.zeros(2)
        self.refuses = False

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value = state["value"]
        if self.refuses and self.value.any():
            raise ValueError("value: not this one, expected zeros")


def test_objects_of_others_are_put_back(tmp_path: Path, contents: Contents) -> None:
    good, bad = Stubborn(), Stubborn()
    good.value += 1
    bad.value += 1
    gs.save(tmp_path / "run", **filled(1.0), good=good, bad=bad)
    live, others = filled(2.0), [Stubborn(), Stubborn()]
    others[1].refuses = True
    before = everything(live, contents)
    with pytest.raises(ValueError, match="bad: value: not this one, expected zeros"):
        gs.load(tmp_path / "run", **live, good=others[0], bad=others[1])
    assert everything(live, contents) == before
    assert [other.value.tolist() for other in others] == [[0, 0], [0, 0]]
    others[1].refuses = False
    gs.load(tmp_path / "run", **live, good=others[0], bad=others[1])
    for other in others:  # may keep and change what it got
        other.value += 1
        assert other.value.tolist() == [2, 2]


def test_an_interrupt_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gs.save(tmp_path / "run", **filled(1.0))
    live = filled(2.0)
    before = live["rng"].bit_generator.state, live["drop"].state_dict(), live["model"]["w"].copy()

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(live["optimizer"], "_take_state", interrupted, raising=True)
    with pytest.raises(KeyboardInterrupt):
        gs.load(tmp_path / "run", **live)
    assert live["rng"].bit_generator.state == before[0]
    assert live["drop"].state_dict() == before[1]
    assert (live["model"]["w"] == before[2]).all()
