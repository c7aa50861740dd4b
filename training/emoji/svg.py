"""SVG of icons and compositions, and its pixels on white."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np

from textual_vision.runtime.errors import IntegrityError
from textual_vision.training.data.records import Pixels, Record

CANVAS = 100.0  # units along a side of every composition, whatever its size in pixels
OVERSAMPLING = 2

_ID = re.compile(r'\bid="([^"]+)"')


@dataclass(frozen=True, kw_only=True)
class Art:
    """One icon of an icon set: SVG markup and the view box of the icon."""

    body: str
    left: float = 0.0
    top: float = 0.0
    width: float
    height: float
    mirrored: bool = False

    @property
    def view_box(self) -> str:
        """Return the value of SVG's viewBox attribute."""
        return f"{self.left:g} {self.top:g} {self.width:g} {self.height:g}"


@dataclass(frozen=True, kw_only=True)
class SvgLayer:
    """The place of one icon on the canvas, in canvas units; its box has the proportions of the icon."""

    art: Art
    x: float
    y: float
    width: float
    height: float
    degrees: float = 0.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tint_share: float = 0.0  # 0: the icon, 1: the tint alone; for snow and dusk


@dataclass(frozen=True, kw_only=True)
class SvgRecord:
    """A record and the SVG of its picture."""

    record: Record
    svg: str


def svg_from_art(art: Art) -> str:
    """SVG of one icon, as large as the canvas and centered."""
    return svg_from_layers([SvgLayer(art=art, x=0, y=0, width=CANVAS, height=CANVAS)])


def svg_from_layers(layers: list[SvgLayer | str]) -> str:
    """SVG of layers from back to front; a string is markup in canvas units.

    Ids become unique for each layer, since two icons may both call a gradient `a`.
    """
    parts = [
        layer if isinstance(layer, str) else _nested(layer, f"l{index}-")
        for index, layer in enumerate(layers)
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {CANVAS:g} {CANVAS:g}" width="{CANVAS:g}" height="{CANVAS:g}">{"".join(parts)}</svg>'
    )


def _nested(layer: SvgLayer, prefix: str) -> str:
    art = layer.art
    inner = (
        f'<svg x="{layer.x:g}" y="{layer.y:g}" width="{layer.width:g}" height="{layer.height:g}" '
        f'viewBox="{art.view_box}">{_with_own_ids(art.body, prefix)}</svg>'
    )
    middle_x, middle_y = layer.x + layer.width / 2, layer.y + layer.height / 2
    turn = f"rotate({layer.degrees:g} {middle_x:g} {middle_y:g})" if layer.degrees else ""
    flip = f"translate({2 * middle_x:g} 0) scale(-1 1)" if art.mirrored else ""
    if layer.tint_share:
        inner = f'{_tinting(layer, prefix)}<g filter="url(#{prefix}tint)">{inner}</g>'
    return f'<g transform="{turn} {flip}">{inner}</g>' if turn or flip else inner


def _tinting(layer: SvgLayer, prefix: str) -> str:
    kept = 1 - layer.tint_share
    red, green, blue = (channel * layer.tint_share for channel in layer.tint)
    rows = f"{kept:g} 0 0 0 {red:g} 0 {kept:g} 0 0 {green:g} 0 0 {kept:g} 0 {blue:g} 0 0 0 1 0"
    return (
        f'<filter id="{prefix}tint" color-interpolation-filters="sRGB">'
        f'<feColorMatrix type="matrix" values="{rows}"/></filter>'
    )


def _with_own_ids(body: str, prefix: str) -> str:
    names = set(_ID.findall(body))
    if not names:
        return body
    any_name = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(
        rf'(\bid="|url\(#|href="#)({any_name})(?=["\)])', lambda found: found[1] + prefix + found[2], body
    )


def rgba_from_svg(svg: str, size: int) -> Pixels:
    """(size, size, 4) uint8, straight alpha. IntegrityError when the markup cannot be rendered."""
    import resvg_py
    from PIL import Image

    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    except ValueError as error:
        raise IntegrityError(f"an icon cannot be rendered: {error}") from error
    with Image.open(io.BytesIO(bytes(png))) as image:
        return np.asarray(image.convert("RGBA"), np.uint8)


def picture_from_svg(svg: str, size: int) -> Pixels:
    """(size, size, 3) uint8, on white; rendered larger and averaged, as clip paths are not anti-aliased."""
    rgba = rgba_from_svg(svg, size * OVERSAMPLING).astype(np.float32)
    alpha = rgba[..., 3:] / 255.0
    on_white = rgba[..., :3] * alpha + 255.0 * (1.0 - alpha) + 0.5
    return smaller(on_white.astype(np.uint8), size)


def smaller(pictures: Pixels, size: int) -> Pixels:
    """(..., size, size, 3) uint8 by area means; the side must be a whole multiple of `size`."""
    *batch, side, _, channels = pictures.shape
    factor, rest = divmod(side, size)
    if rest or factor < 1:
        raise ValueError(f"{side} px is not a multiple of {size} px")
    if factor == 1:
        return pictures
    blocks = pictures.reshape(*batch, size, factor, size, factor, channels)
    return np.asarray(blocks.mean(axis=(-4, -2), dtype=np.float32) + 0.5, np.float32).astype(np.uint8)
