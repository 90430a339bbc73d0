"""Charts as inline SVG, whose colors are the page's, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["COLORS", "Chart", "legend", "ticks"]

WIDTH, HEIGHT = 390, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 40
# Classes c0 ... c9 of the style.
COLORS = 10

Points = Iterable[tuple[float, float]]
Range = tuple[float, float]


class Chart:
    """A chart with two axes; everything drawn is in data's units, and what is not finite is not.

    title: above it. x, y: what stands at the axes. across, up: ranges. log: whether the second axis
    is logarithmic. percent: whether its numbers are shares.

    >>> chart = Chart("loss", "epoch", "", (1, 3), (0.0, 1.0))
    >>> chart.line([(1, 0.9), (2, 0.5), (3, math.nan)], "c0")
    >>> "<polyline" in chart.html() and "<figcaption>loss" in chart.html()
    True
    """

    def __init__(
        self,
        title: str,
        x: str,
        y: str,
        across: Range,
        up: Range,
        *,
        log: bool = False,
        percent: bool = False,
    ) -> None:
        self._title, self._x, self._y = title, x, y
        self._log, self._percent = log and up[0] > 0, percent
        self._across = _wide(across)
        self._up = _wide((math.log10(up[0]), math.log10(up[1])) if self._log else up)
        self._drawn: list[str] = []

    def _place(self, x: float, y: float) -> tuple[float, float] | None:
        if not math.isfinite(x) or not math.isfinite(y) or (self._log and y <= 0):
            return None
        y = math.log10(y) if self._log else y
        (left, right), (low, high) = self._across, self._up
        across = (x - left) / (right - left)
        up = min(max((y - low) / (high - low), -0.02), 1.02)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    def line(self, points: Points, style: str) -> None:
        """Draw a line; style: classes of the page's style."""
        places = [place for point in points if (place := self._place(*point))]
        if len(places) == 1:
            self.dots([point for point in points if self._place(*point)], style)
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in _apart(places))
        self._drawn.append(f'<polyline class="line {style}" points="{text}"/>')

    def dots(self, points: Points, style: str, size: float = 3) -> None:
        """Draw a dot at each point."""
        places = (place for point in points if (place := self._place(*point)))
        circle = '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="{:g}"/>'
        self._drawn += [circle.format(style, x, y, size) for x, y in places]

    def bars(self, edges: Sequence[float], heights: Sequence[float], style: str) -> None:
        """Draw a bar of each height, from one edge to the next."""
        for left, right, height in zip(edges, edges[1:], heights, strict=False):
            foot, head = self._place(left, 0), self._place(right, height)
            if foot and head and height:
                (x, bottom), (end, top) = foot, head
                box = f'x="{x:.1f}" y="{top:.1f}" width="{end - x - 1:.1f}"'
                self._drawn.append(f'<rect class="{style}" {box} height="{bottom - top:.1f}"/>')

    def html(self) -> str:
        """Return the figure."""
        label = escape(f"{self._title}: {self._y or self._title} over {self._x}")
        return (
            f"<figure><figcaption>{escape(self._title)}</figcaption>"
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
            f"{self._axes()}{''.join(self._drawn)}</svg></figure>"
        )

    def _axes(self) -> str:
        parts = []
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for value, text in ticks(*self._across):
            place = self._place(value, 10 ** self._up[0] if self._log else self._up[0])
            if place:
                x = place[0]
                parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{bottom}"/>')
                parts.append(f'<text class="mid" x="{x:.1f}" y="{bottom + 15}">{text}</text>')
        for value, text in self._ticks_up():
            place = self._place(self._across[0], value)
            if place:
                y = place[1]
                parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
                parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{text}</text>')
        middle = (LEFT + right) / 2
        parts.append(f'<text class="mid" x="{middle}" y="{HEIGHT - 6}">{escape(self._x)}</text>')
        if self._y:
            turned = f'transform="translate(12 {(TOP + bottom) / 2}) rotate(-90)"'
            parts.append(f'<text class="mid" {turned}>{escape(self._y)}</text>')
        return "".join(parts)

    def _ticks_up(self) -> list[tuple[float, str]]:
        low, high = self._up
        if self._log:
            return _log_ticks(low, high)
        if self._percent:
            return [(value, f"{100 * value:.3g} %") for value, _ in ticks(low, high)]
        return ticks(low, high)


def _apart(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Leave out places that lie on top of the one before: a page has few pixels."""
    kept = list(places[:1])
    for x, y in places[1:-1]:
        if abs(x - kept[-1][0]) + abs(y - kept[-1][1]) >= 0.5:
            kept.append((x, y))
    return kept + list(places[1:][-1:])


def _wide(bounds: Range) -> Range:
    low, high = bounds
    if not math.isfinite(low) or not math.isfinite(high):
        return 0.0, 1.0
    if high > low:
        return low, high
    return low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)


def ticks(low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """Return round numbers between two, with their texts.

    >>> ticks(0.0, 1.0)
    [(0.0, '0'), (0.2, '0.2'), (0.4, '0.4'), (0.6, '0.6'), (0.8, '0.8'), (1.0, '1')]
    """
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [round(i * step, 12) for i in range(first, last + 1)]
    return [(value, f"{value:.6g}") for value in values]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Powers of ten, with 2 and 5 times them where there are few, or what a plain axis has."""
    factors = (1, 2, 5) if high - low < 2 else (1,)
    every = max(math.ceil((high - low) / 6), 1)
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [factor * 10.0**power for power in powers if power % every == 0 for factor in factors]
    shown = [(v, f"{v:g}") for v in values if low - 1e-9 <= math.log10(v) <= high + 1e-9]
    return shown if len(shown) > 1 else ticks(10**low, 10**high, 4)


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Return names beside the styles of their lines; entries: pairs of name and style."""
    swatch = '<svg viewBox="0 0 24 8"><path class="line {}" d="M0 4H24"/></svg>{}'
    items = (f"<li>{swatch.format(style, escape(name))}</li>" for name, style in entries)
    return f'<ul class="legend">{"".join(items)}</ul>'
