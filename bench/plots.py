"""The report as pictures; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import ratio
from .report import Picture, duration
from .runner import BASE, LAYER, LIMIT, Result
from .scaling import ONE
from .steps import Step
from .targets import TARGETS

__all__ = ["colour", "draw"]

# A peer keeps its colour from picture to picture: the first of these that its name begins with.
COLOURS = {
    LIMIT: "black",
    "gradstep bound": "#56b4e9",
    "gradstep": "#0072b2",
    "torch fused": "#d55e00",
    "torch foreach": "#e8a33d",
    "torch default": "#f3c6a5",
    "torch aten": "#e8a33d",
    "torch": "#d55e00",
    "numba parallel": "#009e73",
    "numba": "#7fcdb0",
    "JAX threefry": "#c2a5cf",
    "JAX": "#7b3294",
    "optax default": "#c2a5cf",
    "optax": "#7b3294",
    "DeepSpeed": "#e377c2",
    "bitsandbytes": "#8c564b",
    "scikit-learn": "#bcbd22",
    "oneDNN blocked": "#0b6e7a",
    "oneDNN": "#45c2cf",
    "NumPy reference": "#cfcfcf",
    "NumPy": "#7f7f7f",
}
SIDE = 4  # subplots in a row
DPI = 110
GOOD_SCALING = 1.8


def colour(name: str) -> str:
    """That of a contender in all pictures."""
    for beginning, found in COLOURS.items():
        if name.startswith(beginning):
            return found
    return f"C{sum(map(ord, name)) % 10}"


def draw(results: Sequence[Result], folder: Path) -> list[Picture]:
    """Writes PNG files into the folder."""
    pictures: list[Picture] = []
    curves = _curves(results)
    if "AdamW" in curves:
        _draw_curves({"AdamW": curves["AdamW"]}, folder / "adamw.png", (8.5, 4.6))
        pictures.append(Picture("AdamW: GB/s over the size", "adamw.png", "optimizers"))
    if len(curves) > 1:
        _draw_curves(curves, folder / "bandwidth.png", (4.2, 3.4))
        pictures.append(
            Picture("GB/s of the ideal bytes over the size", "bandwidth.png", "optimizers")
        )
    for suite in dict.fromkeys(result.suite for result in results):
        own = [r for r in results if r.suite == suite and _base(r) is not None]
        if not own:
            continue
        file = f"{suite}.png"
        if suite in ("threads", "between"):
            _draw_scaling(own, folder / file)
            pictures.append(Picture("Time of one thread over that of all", file, suite))
        else:
            _draw_ratios(own, folder / file)
            pictures.append(Picture(f"Time over that of gradstep: {suite}", file, suite))
    chosen = [r for r in results if _matters(r)]
    if len({r.suite for r in chosen}) > 1:
        _draw_ratios(chosen, folder / "overview.png")
        pictures.append(Picture("Time over that of gradstep", "overview.png", ""))
    return pictures


def _matters(result: Result) -> bool:
    wanted = result.suite in ("models", "pipeline", "training") or result.work.name in TARGETS
    return wanted and result.suite not in ("threads", "between") and _base(result) is not None


def _base(result: Result) -> Any:
    return result.timing(BASE) or result.timing(LAYER)


def _curves(results: Sequence[Result]) -> dict[str, list[Result]]:
    """By title, the results of the suite of single tensors, where there are several sizes."""
    curves: dict[str, list[Result]] = {}
    for result in results:
        if result.suite == "optimizers" and isinstance(result.work, Step):
            curves.setdefault(result.work.title, []).append(result)
    return {title: found for title, found in curves.items() if len(found) > 1}


def _figure(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(count, SIDE)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, list(axes[:count])


def _points(results: Sequence[Result], name: str) -> tuple[list[int], list[float]]:
    sizes: list[int] = []
    speeds: list[float] = []
    for result in sorted(results, key=lambda result: result.work.elements):
        timing = result.timing(name)
        if timing is not None:
            sizes.append(result.work.elements)
            speeds.append(result.bandwidth(timing))
    return sizes, speeds


def _draw_curves(curves: dict[str, list[Result]], file: Path, size: tuple[float, float]) -> None:
    figure, axes = _figure(len(curves), *size)
    shown: dict[str, Any] = {}
    for axis, (title, results) in zip(axes, curves.items(), strict=True):
        for name in _names(results):
            style: dict[str, Any] = {"color": colour(name), "marker": "o", "markersize": 4}
            if name == LIMIT:
                style = {"color": "black", "linestyle": "--", "marker": "_"}
            elif name.startswith(LAYER):
                style |= {"linewidth": 2.5, "zorder": 3}
            shown.setdefault(name, axis.plot(*_points(results, name), label=name, **style)[0])
        axis.set(title=title, xscale="log", xlabel="parameters", ylabel="GB/s", yscale="log")
        axis.grid(alpha=0.3, which="major")
        axis.yaxis.set_major_formatter("{x:g}")
    shown = {name: shown[name] for name in sorted(shown, key=_rank)}
    if len(curves) == 1:
        figure.legend(shown.values(), shown.keys(), loc="outside right center", fontsize=9)
    else:
        figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=6)
    figure.savefig(file, dpi=DPI)


def _rank(name: str) -> tuple[int, str]:
    """Limit and gradstep first, then peers in the order of their colours."""
    known = [i for i, beginning in enumerate(COLOURS) if name.startswith(beginning)]
    return min(known, default=len(COLOURS)), name


def _names(results: Sequence[Result]) -> list[str]:
    """Of the contenders that were timed."""
    return sorted({row.name for r in results for row in r.rows if row.timing}, key=_rank)


def _rows(count: int, title: str) -> tuple[Any, Any]:
    """A figure with a horizontal line for each work, and a logarithmic axis of ratios."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.7 + 0.3 * count), layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel=title, ylim=(count - 0.4, -0.6))
    axis.grid(alpha=0.3, axis="x")
    axis.set_axisbelow(True)
    return figure, axis


def _draw_ratios(results: Sequence[Result], file: Path) -> None:
    """The fastest peer as a bar from 1, gradstep's time; all contenders as points."""
    title = "time over that of gradstep: right of the line, gradstep is faster"
    figure, axis = _rows(len(results), title)
    shown: dict[str, Any] = {}
    for y, result in enumerate(results):
        base, best = _base(result), result.fastest_peer()
        if best is not None:
            times = ratio(best[1], base)
            axis.barh(y, times - 1, left=1, height=0.62, color=colour(best[0]), alpha=0.55)
        for name in _names([result]):
            timing = result.timing(name)
            if timing is None or timing is base:
                continue
            style = {"marker": "|", "s": 130, "linewidths": 2} if name == LIMIT else {"s": 22}
            x = ratio(timing, base)
            shown[name] = axis.scatter(x, y, color=colour(name), zorder=3, **style)
    names = [f"{r.work.name}  ({duration(_base(r).median)})" for r in results]
    axis.set_yticks(range(len(results)), names, fontsize=9)
    axis.set_xscale("log")
    axis.axvline(1, color=colour(LAYER), linewidth=2)
    axis.xaxis.set_major_formatter("{x:g}×")
    labels: dict[str, list[str]] = {}
    for name in sorted(shown, key=_rank):
        labels.setdefault(colour(name), []).append(name)
    handles = [shown[names[0]] for names in labels.values()]
    texts = [", ".join(names) for names in labels.values()]
    widest = max(map(len, texts), default=0) + 8  # of some 140 characters in the figure's width
    columns = max(1, min(4, 140 // widest))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=9)
    figure.savefig(file, dpi=DPI)


def _draw_scaling(results: Sequence[Result], file: Path) -> None:
    """By how much all threads are faster than one; the limit as a mark."""
    figure, axis = _rows(len(results), "time of one thread over that of all; black: the limit")
    for y, result in enumerate(results):
        for name in (LAYER, LIMIT):
            one, all_threads = result.timing(f"{name}, {ONE}"), result.timing(name)
            if one is None or all_threads is None:
                continue
            times = ratio(one, all_threads)
            if name == LAYER:
                axis.barh(y, times, height=0.62, color=colour(LAYER), alpha=0.8)
            else:
                axis.scatter(times, y, marker="|", s=130, linewidths=2, color="black", zorder=3)
    names = [result.work.name.removesuffix(", by threads") for result in results]
    axis.set_yticks(range(len(results)), names, fontsize=9)
    axis.axvline(GOOD_SCALING, color="grey", linestyle="--")
    figure.savefig(file, dpi=DPI)
