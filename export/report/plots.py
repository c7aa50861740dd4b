"""Plots as inline SVG; horizontal positions are percentages, so that plots fit any width."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from textual_vision.export.report.layers import LayerRatio

ROW, BAR, BASELINE = 52, 20, 14
LEFT, RIGHT, TOP, HEIGHT, BOTTOM = 8.0, 99.0, 8, 180, 22
COLORS = 6


def stacked_bars(rows: Mapping[str, Mapping[str, float]], unit: str, title: str) -> str:
    """Return a plot with a bar per row and a segment per part, all in one `unit`."""
    widest = max((sum(parts.values()) for parts in rows.values()), default=0.0) or 1.0
    names = list(dict.fromkeys(part for parts in rows.values() for part in parts))
    pieces = []
    for index, (row, parts) in enumerate(rows.items()):
        y, x, total = index * ROW, 0.0, sum(parts.values())
        pieces.append(_text(0, y + BASELINE, row, "label"))
        pieces.append(_text(100, y + BASELINE, f"{_short(total)} {unit}", "value", "end"))
        for part, value in parts.items():
            width = 100.0 * value / widest
            tip = f"{row}, {part}: {_short(value)} {unit}"
            color = f"c{names.index(part) % COLORS}"
            pieces.append(
                f'<rect class="{color}" x="{x:.2f}%" y="{y + 22}" width="{width:.2f}%" height="{BAR}">'
                f"<title>{escape(tip)}</title></rect>"
            )
            x += width
    return _svg(pieces, max(ROW * len(rows) - 8, 1), title)


def layer_plot(series: Mapping[str, Sequence[LayerRatio]], title: str) -> str:
    """Return a plot of decibels over the layers in running order, a line per precision; "" without data."""
    measured = [r.db for ratios in series.values() for r in ratios if r.db is not None]
    if not measured:
        return ""
    low, high = _range(measured)
    pieces = _grid(low, high)
    for index, (name, ratios) in enumerate(series.items()):
        pieces += _line(name, ratios, (low, high), f"c{index % COLORS}")
    pieces.append(_text(LEFT, TOP + HEIGHT + 16, "first layer", "tick"))
    pieces.append(_text(RIGHT, TOP + HEIGHT + 16, "last layer", "tick", "end"))
    return _svg(pieces, TOP + HEIGHT + BOTTOM, title)


def _range(values: Sequence[float]) -> tuple[int, int]:
    low = 10 * math.floor(min(values) / 10)
    return low, max(10 * math.ceil(max(values) / 10), low + 10)


def _grid(low: int, high: int) -> list[str]:
    step = 10 if high - low <= 60 else 20 if high - low <= 120 else 40
    pieces = []
    for decibels in range(math.ceil(low / step) * step, high + 1, step):
        y = _y(decibels, (low, high))
        pieces.append(f'<line class="rule" x1="{LEFT}%" x2="{RIGHT}%" y1="{y:.1f}" y2="{y:.1f}"></line>')
        pieces.append(_text(LEFT - 1.5, y + 4, str(decibels), "tick", "end"))
    return pieces


def _line(name: str, ratios: Sequence[LayerRatio], span: tuple[int, int], color: str) -> list[str]:
    pieces, before = [], None
    for index, ratio in enumerate(ratios):
        if ratio.db is None:
            before = None
            continue
        x = LEFT + (RIGHT - LEFT) * (index + 0.5) / len(ratios)
        y = _y(ratio.db, span)
        if before is not None:
            start, end = f'x1="{before[0]:.2f}%" y1="{before[1]:.1f}"', f'x2="{x:.2f}%" y2="{y:.1f}"'
            pieces.append(f'<line class="{color}" {start} {end}></line>')
        tip = escape(f"{name}: {ratio.name} ({ratio.op}) {ratio.db:.1f} dB")
        pieces.append(
            f'<circle class="{color}" cx="{x:.2f}%" cy="{y:.1f}" r="3"><title>{tip}</title></circle>'
        )
        before = (x, y)
    return pieces


def _y(decibels: float, span: tuple[int, int]) -> float:
    low, high = span
    return TOP + HEIGHT * (high - decibels) / (high - low)


def _svg(pieces: Sequence[str], height: int, title: str) -> str:
    label = escape(title, quote=True)
    opening = f'<svg class="plot" role="img" aria-label="{label}" width="100%" height="{height}">'
    return f"{opening}{''.join(pieces)}</svg>"


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:g}%" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
