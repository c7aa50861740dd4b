"""The layers of a landscape: sky, sun or moon, land, water and plants, in a random layout."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from textual_vision.training.emoji.svg import CANVAS, Art, SvgLayer

PLANTS = {
    "forest": ("1F332", "1F333"),
    "snow": ("1F332",),
    "desert": ("1F335",),
    "meadow": ("1F33B", "1F337", "1F33C", "1F33A"),
}
SUN, MOON, CLOUD = "2600", "1F319", "2601"
# Tint of everything on the ground at dusk and night: a color and its share.
_DUSK: dict[str, tuple[tuple[float, float, float], float]] = {
    "blue": ((1.0, 1.0, 1.0), 0.0),
    "sunset": ((0.55, 0.2, 0.35), 0.16),
    "night": ((0.05, 0.08, 0.25), 0.45),
}
_SNOW = ((0.93, 0.97, 1.0), 0.55)

_SKY_COLORS = {
    "blue": ("#4aa8f0", "#8fd0ff", "#d8f1ff"),
    "sunset": ("#5b3a86", "#e8648a", "#ffc36b"),
    "night": ("#0b1238", "#1b2a63", "#3a4f8f"),
}
_GROUND_COLORS = {
    "forest": ("#6fbf4b", "#3f8f33", "#57a83f"),
    "snow": ("#ffffff", "#d5e4f2", "#e9f2fa"),
    "desert": ("#f3d489", "#dba653", "#e8bd6b"),
    "meadow": ("#a5dc5d", "#6cb73c", "#8acb4b"),
}
_WATER_COLORS = {
    "blue": ("#7fd0f7", "#2f8fe0"),
    "sunset": ("#f7a98c", "#5a6fc0"),
    "night": ("#4a6bc0", "#1c3583"),
}
_MOUNTAIN_COLORS = {
    "blue": ("#7f95ad", "#677d96"),
    "sunset": ("#7a5a8c", "#654a78"),
    "night": ("#3b4672", "#2e385f"),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The parts of a landscape, as keys of the tables in `scenes`."""

    ground: str
    water: str
    backdrop: str
    sky: str

    @property
    def concept(self) -> str:
        """Return the name of the concept, without the layout."""
        return f"scene:{self.ground}|{self.water}|{self.backdrop}|{self.sky}"


def layers_from_scene(
    scene: Scene, art: Mapping[str, list[Art]], chance: random.Random
) -> list[SvgLayer | str]:
    """Layers from back to front: sky, backdrop, land, water, plants, with places by `chance`."""
    horizon = chance.uniform(42, 52)
    water = _water(scene.water, horizon, chance)
    return [
        _gradients(scene),
        f'<rect width="{CANVAS:g}" height="{CANVAS:g}" fill="url(#sky)"/>',
        *_heavens(scene, art, horizon, chance),
        *_land(scene, horizon, chance),
        *([water.markup] if water else []),
        *_planted(scene, art, horizon, water, chance),
    ]


def plants_for(ground: str, art_from_hexcode: Mapping[str, list[Art]]) -> list[Art]:
    """Icons of the plants of a ground in this style; may be empty."""
    return [art_from_hexcode[code][0] for code in PLANTS[ground] if code in art_from_hexcode]


def _gradients(scene: Scene) -> str:
    def gradient(name: str, colors: tuple[str, ...]) -> str:
        last = len(colors) - 1
        stops = "".join(
            f'<stop offset="{index / last:g}" stop-color="{color}"/>' for index, color in enumerate(colors)
        )
        return f'<linearGradient id="{name}" x1="0" y1="0" x2="0" y2="1">{stops}</linearGradient>'

    far, near, hill = (_dusky(color, scene.sky) for color in _GROUND_COLORS[scene.ground])
    ranges = (
        gradient("sky", _SKY_COLORS[scene.sky])
        + gradient("ground", (far, near))
        + gradient("hill", (hill, far))
        + gradient("water", _WATER_COLORS[scene.sky])
    )
    return f"<defs>{ranges}</defs>"


def _dusky(color: str, sky: str) -> str:
    tint, share = _DUSK[sky]
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    mixed = (
        round(channel * (1 - share) + 255 * part * share)
        for channel, part in zip(channels, tint, strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _heavens(
    scene: Scene, art: Mapping[str, list[Art]], horizon: float, chance: random.Random
) -> list[SvgLayer | str]:
    layers: list[SvgLayer | str] = []
    if scene.sky == "night":
        layers += [_star(chance, horizon) for _ in range(26)]
    side = chance.choice((-1, 1))
    if scene.backdrop == "sun":
        layers.append(_sun(scene.sky, art, 50 + side * chance.uniform(10, 34), horizon, chance))
    if scene.backdrop == "moon":
        size = chance.uniform(17, 22)
        middle = 50 + side * chance.uniform(12, 32)
        layers.append(_placed(art, MOON, middle - size / 2, chance.uniform(5, 12), size))
    if scene.sky == "blue" and CLOUD in art:
        for _ in range(chance.choice((1, 2, 2))):
            size = chance.uniform(16, 24)
            middle = 50 - side * chance.uniform(0, 42)
            layers.append(_placed(art, CLOUD, middle - size / 2, chance.uniform(2, 14), size))
    if scene.backdrop == "mountains":
        layers += _mountains(scene.sky, horizon, chance)
    return layers


def _star(chance: random.Random, horizon: float) -> str:
    x, y, radius = chance.uniform(1, 99), chance.uniform(1, horizon - 6), chance.uniform(0.3, 0.8)
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}" fill="#fff" opacity="0.9"/>'


def _placed(art: Mapping[str, list[Art]], hexcode: str, x: float, y: float, size: float) -> SvgLayer | str:
    if hexcode not in art:  # a style without this icon: a plain disc of the same place
        return f'<circle cx="{x + size / 2:g}" cy="{y + size / 2:g}" r="{size * 0.38:g}" fill="#ffe9a8"/>'
    return SvgLayer(art=art[hexcode][0], x=x, y=y, width=size, height=size)


def _sun(
    sky: str, art: Mapping[str, list[Art]], middle: float, horizon: float, chance: random.Random
) -> SvgLayer | str:
    """The sun: high and with rays by day, a disc at the horizon at sunset."""
    if sky == "sunset":
        radius = chance.uniform(10, 14)
        y = horizon - chance.uniform(0.3, 0.7) * radius
        glow = (
            f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="{radius * 1.5:.1f}" fill="#ffd98a" opacity="0.35"/>'
        )
        return glow + f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#ffdf6e"/>'
    size = chance.uniform(20, 26)
    return _placed(art, SUN, middle - size / 2, chance.uniform(3, 9), size)


def _mountains(sky: str, horizon: float, chance: random.Random) -> list[SvgLayer | str]:
    light, dark = _MOUNTAIN_COLORS[sky]
    middles = [chance.uniform(8, 28), chance.uniform(66, 92), chance.uniform(40, 58)]
    return [_mountain(middle, horizon, light, dark, chance) for middle in middles]


def _mountain(middle: float, horizon: float, light: str, dark: str, chance: random.Random) -> str:
    height, half = chance.uniform(24, 34), chance.uniform(20, 27)
    peak, foot = horizon - height, horizon + 4
    snow, share = chance.uniform(0.28, 0.36), 1.0
    cap_y, cap = peak + height * snow, half * snow * share
    zigzag = (
        f"L{middle + cap:.1f} {cap_y:.1f} L{middle + cap * 0.4:.1f} {cap_y - 2:.1f} "
        f"L{middle:.1f} {cap_y + 2:.1f} L{middle - cap * 0.45:.1f} {cap_y - 2:.1f} "
        f"L{middle - cap:.1f} {cap_y:.1f}Z"
    )
    return (
        f'<path d="M{middle - half:.1f} {foot:.1f} L{middle:.1f} {peak:.1f} '
        f'L{middle + half:.1f} {foot:.1f}Z" fill="{light}"/>'
        f'<path d="M{middle:.1f} {peak:.1f} L{middle + half:.1f} {foot:.1f} '
        f'L{middle + half * 0.15:.1f} {foot:.1f}Z" fill="{dark}"/>'
        f'<path d="M{middle:.1f} {peak:.1f} {zigzag}" fill="#f4f8ff"/>'
    )


def _land(scene: Scene, horizon: float, chance: random.Random) -> list[SvgLayer | str]:
    rise, phase = chance.uniform(2, 5), chance.uniform(0, math.tau)
    hill = [(x, horizon - 1 - rise * (1 + math.sin(phase + x / 14)) / 2) for x in range(0, 101, 4)]
    return [
        f'<path d="{_outline([(0, 100), *hill, (100, 100)])}" fill="url(#hill)"/>',
        f'<rect y="{horizon:.1f}" width="{CANVAS:g}" height="{CANVAS - horizon:.1f}" fill="url(#ground)"/>',
    ]


@dataclass(frozen=True, kw_only=True)
class _Water:
    """Water; `banks(y)` is its span of x at a height, or None where there is none."""

    markup: str
    rows: tuple[tuple[float, float, float], ...]  # (y, left, right)

    def banks(self, y: float) -> tuple[float, float] | None:
        near = min(self.rows, key=lambda row: abs(row[0] - y))
        return (near[1], near[2]) if abs(near[0] - y) < 3 else None


def _water(kind: str, horizon: float, chance: random.Random) -> _Water | None:
    if not kind:
        return None
    rows = _river_rows(horizon, chance) if kind == "river" else _lake_rows(horizon, chance)
    left = [(left, y) for y, left, _ in rows]
    right = [(right, y) for y, _, right in rows]
    shape = _outline([*left, *reversed(right)])
    markup = (
        f'<path d="{shape}" fill="url(#water)" stroke="#fff" stroke-opacity="0.45" stroke-width="0.9"/>'
        + "".join(_glint(row, chance) for row in rows[3::4])
    )
    return _Water(markup=markup, rows=tuple(rows))


def _river_rows(horizon: float, chance: random.Random) -> list[tuple[float, float, float]]:
    """Rows of a river that winds from the horizon to the lower edge and becomes wider."""
    start, bend = chance.uniform(36, 64), chance.choice((-1, 1)) * chance.uniform(9, 15)
    mouth, phase = chance.uniform(32, 68), chance.uniform(-0.4, 0.4)
    rows = []
    for step in range(33):
        near = step / 32
        middle = start + (mouth - start) * near + bend * math.sin(math.tau * near**0.8 + phase) * near**0.4
        half = 1.2 + 14.5 * near**1.35
        rows.append((horizon + (101 - horizon) * near, middle - half, middle + half))
    return rows


def _lake_rows(horizon: float, chance: random.Random) -> list[tuple[float, float, float]]:
    middle, half = chance.uniform(36, 64), chance.uniform(27, 36)
    deep, center = chance.uniform(10, 14), horizon + chance.uniform(17, 22)
    rows = []
    for step in range(33):
        angle = math.pi * step / 32
        y, reach = center - deep * math.cos(angle), half * math.sin(angle) ** 0.8
        sway = 2.0 * math.sin(3 * angle)
        rows.append((y, middle - reach + sway, middle + reach + sway))
    return rows


def _glint(row: tuple[float, float, float], chance: random.Random) -> str:
    y, left, right = row
    width = right - left
    if width < 6:
        return ""
    x = left + width * chance.uniform(0.2, 0.55)
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * 0.24:.1f}" height="0.9" rx="0.45" '
        'fill="#fff" opacity="0.4"/>'
    )


def _planted(
    scene: Scene,
    art: Mapping[str, list[Art]],
    horizon: float,
    water: _Water | None,
    chance: random.Random,
) -> list[SvgLayer | str]:
    """Rows of plants from the horizon to the front, none in the water or before all of it."""
    plants = plants_for(scene.ground, art)
    rows, count, smallest, largest = _DENSITY[scene.ground]
    tint, share = _SNOW if scene.ground == "snow" else _DUSK[scene.sky]
    layers: list[SvgLayer | str] = []
    for row in range(rows):
        near = row / (rows - 1)
        foot = horizon + 3 + (93 - horizon) * near**1.3
        size = smallest + (largest - smallest) * near
        for place in range(count):
            middle = (place + 0.5 + chance.uniform(-0.3, 0.3)) * 100 / count + (50 / count) * (row % 2)
            if _is_wet(water, middle, foot, size):
                continue
            side = size * chance.uniform(0.85, 1.15)
            layers.append(
                SvgLayer(
                    art=chance.choice(plants),
                    x=middle - side / 2,
                    y=foot + chance.uniform(-1, 1) - side,
                    width=side,
                    height=side,
                    tint=tint,
                    tint_share=share,
                )
            )
    return layers


# Rows, plants a row, and their size at the horizon and in front, in canvas units.
_DENSITY = {
    "forest": (4, 6, 17.0, 34.0),
    "snow": (4, 6, 17.0, 34.0),
    "desert": (3, 4, 10.0, 26.0),
    "meadow": (5, 7, 6.0, 14.0),
}


def _is_wet(water: _Water | None, middle: float, foot: float, size: float) -> bool:
    """Whether a plant, `size` high, would stand in the water or hide it."""
    if water is None:
        return False
    for up in (0.0, 0.35, 0.7):
        banks = water.banks(foot - up * size)
        reach = size * (0.22 if up == 0 else 0.1)
        if banks and banks[0] - reach < middle < banks[1] + reach:
            return True
    return False


def _outline(points: list[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
