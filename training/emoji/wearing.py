"""Animals with an accessory: compositions of two icons of one style, with exact captions."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from textual_vision.training.data.records import Record
from textual_vision.training.data.splits import hashed_share
from textual_vision.training.emoji.concepts import with_article
from textual_vision.training.emoji.svg import (
    CANVAS,
    Art,
    SvgLayer,
    SvgRecord,
    rgba_from_svg,
    svg_from_art,
    svg_from_layers,
)

MEASURED_PIXELS = 100  # along a side of the raster for measurements; one pixel is one canvas unit
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)

# Height of the eyes in canvas units from the top, by style. Animals that a style shows from the side, or
# whole, have none, since glasses would not fit.
STYLES = (
    "noto", "noto classic", "twemoji", "fluent", "fluent flat", "emojitwo", "firefox", "streamline",
)  # fmt: skip
_N = None
_EYES: dict[str, tuple[str, tuple[int | None, ...]]] = {
    "1F436": ("dog", (44, 53, 49, 44, 44, 47, 49, 50)),
    "1F431": ("cat", (50, 51, 51, 52, 52, 48, 54, 53)),
    "1F42D": ("mouse", (57, 59, 55, 55, 56, 51, 55, 56)),
    "1F439": ("hamster", (55, 57, 56, 53, 53, 52, _N, 58)),
    "1F430": ("rabbit", (58, 69, 62, 60, 60, 58, _N, 60)),
    "1F98A": ("fox", (53, 60, 50, 52, 52, 50, _N, _N)),
    "1F43B": ("bear", (44, 49, 47, 52, 52, 48, 50, 48)),
    "1F43C": ("panda", (46, 47, 48, 47, 47, 48, 53, 46)),
    "1F43B-200D-2744": ("polar bear", (38, _N, 47, 51, 51, _N, _N, _N)),
    "1F428": ("koala", (46, _N, 48, 50, 50, 46, 48, 47)),
    "1F42F": ("tiger", (47, 44, 49, 50, 50, 48, 52, 47)),
    "1F981": ("lion", (41, 47, 49, 46, 46, 47, _N, 48)),
    "1F42E": ("cow", (42, 46, 45, 43, 43, 44, 47, 44)),
    "1F437": ("pig", (45, 44, 47, 48, 48, 50, 49, 46)),
    "1F438": ("frog", (32, 29, 22, 27, 27, 35, 33, 29)),
    "1F435": ("monkey", (43, 43, 50, 46, 46, 46, 48, 47)),
    "1F43A": ("wolf", (47, 50, 48, 47, 47, 52, 53, _N)),
    "1F99D": ("raccoon", (_N, _N, 52, 55, 55, _N, _N, _N)),
    "1F417": ("boar", (_N, _N, 49, _N, _N, 54, 52, 49)),
    "1F434": ("horse", (_N, _N, _N, _N, _N, 43, 45, _N)),
    "1F989": ("owl", (39, 40, 37, 38, 38, 40, _N, _N)),
    "1F414": ("chicken", (_N, _N, 51, _N, _N, _N, 53, _N)),
}
ANIMALS: Mapping[str, str] = {hexcode: name for hexcode, (name, _) in _EYES.items()}
# Width of the glasses in canvas units for narrow heads.
_GLASSES_WIDTH = 64.0
_NARROW = {"1F430": 50.0, "1F989": 54.0, "1F434": 52.0, "1F414": 50.0, "1F42D": 56.0}
_LARGER = {"emojitwo": 1.12}
_FROM_ONE_SIDE = 50.0

# Which shapes of "smiling face with sunglasses" are the glasses, counted from the back.
_SUNGLASSES_FACE = "1F60E"
_SUNGLASSES_SHAPES: dict[str, range] = {
    "noto": range(3, 4),
    "noto classic": range(2, 4),
    "twemoji": range(1, 2),
    "fluent": range(10, 23),
    "fluent flat": range(2, 5),
    "emojitwo": range(1, 2),
    "streamline": range(8, 30),
}
_FRONTAL_GLASSES = frozenset({"noto", "twemoji", "fluent", "fluent flat", "firefox"})


@dataclass(frozen=True, kw_only=True)
class Accessory:
    """An accessory, its captions with {animal} or {an_animal}, and its place.

    `width` is in canvas units on an animal of full size; 0 for glasses, which are placed at the eyes. `sink`
    is the share of the height of a hat that is below the top of the head.
    """

    name: str
    hexcode: str
    captions: tuple[str, ...]
    width: float = 0.0
    sink: float = 0.0


ACCESSORIES = (
    Accessory(
        name="sunglasses",
        hexcode="1F576",
        captions=(
            "{animal} wearing sunglasses",
            "{an_animal} wearing sunglasses",
            "{an_animal} with sunglasses",
            "{an_animal} in sunglasses",
            "cool {animal} in shades",
            "{animal} with shades",
        ),
    ),
    Accessory(
        name="glasses",
        hexcode="1F453",
        captions=(
            "{animal} wearing glasses",
            "{an_animal} wearing glasses",
            "{an_animal} with glasses",
            "{animal} with eyeglasses",
        ),
    ),
    Accessory(
        name="crown",
        hexcode="1F451",
        width=48,
        sink=0.22,
        captions=(
            "{animal} wearing a crown",
            "{an_animal} wearing a crown",
            "{an_animal} with a crown",
            "royal {animal} with a golden crown",
        ),
    ),
    Accessory(
        name="top hat",
        hexcode="1F3A9",
        width=56,
        sink=0.22,
        captions=(
            "{animal} wearing a top hat",
            "{an_animal} wearing a top hat",
            "{an_animal} with a top hat",
            "{an_animal} in a top hat",
        ),
    ),
    Accessory(
        name="graduation cap",
        hexcode="1F393",
        width=62,
        sink=0.3,
        captions=(
            "{animal} wearing a graduation cap",
            "{an_animal} wearing a graduation cap",
            "{an_animal} with a graduation cap",
            "graduate {animal}",
        ),
    ),
)


def wearing_drawings(
    shown: Mapping[str, Mapping[str, list[Art]]], license_from_style: Mapping[str, str]
) -> Iterator[SvgRecord]:
    """Every animal with every accessory in every style that has both.

    `shown` maps a style to a hexcode to its icons.
    """
    for style, art_from_hexcode in shown.items():
        for accessory in ACCESSORIES:
            worn = _worn_art(style, accessory, art_from_hexcode)
            if worn is None:
                continue
            for hexcode in ANIMALS:
                eyes = eye_height(hexcode, style)
                if eyes is None or hexcode not in art_from_hexcode:
                    continue
                record = _record(hexcode, accessory, style, license_from_style[style])
                layers = _dressed(hexcode, art_from_hexcode[hexcode][0], worn, accessory, eyes, style)
                yield SvgRecord(record=record, svg=svg_from_layers(layers))


def eye_height(hexcode: str, style: str) -> int | None:
    """The height of the eyes in canvas units from the top; None where the animal is shown from the side."""
    _, heights = _EYES[hexcode]
    return heights[STYLES.index(style)] if style in STYLES else None


def _record(hexcode: str, accessory: Accessory, style: str, license: str) -> Record:
    animal = ANIMALS[hexcode]
    captions = tuple(
        caption.format(animal=animal, an_animal=with_article(animal)) for caption in accessory.captions
    )
    concept = f"wearing:{accessory.name}:{hexcode}"
    return Record(
        key=f"{concept}/{style}",
        concept=concept,
        kind="wearing",
        label=captions[0],
        captions=captions,
        style=style,
        group="animals-nature",
        subgroup="wearing",
        license=license,
    )


def _worn_art(style: str, accessory: Accessory, art_from_hexcode: Mapping[str, list[Art]]) -> Art | None:
    if accessory.name == "sunglasses" and style in _SUNGLASSES_SHAPES:
        faces = art_from_hexcode.get(_SUNGLASSES_FACE, [])
        return _tight(_only_shapes(faces[0], _SUNGLASSES_SHAPES[style])) if faces else None
    if accessory.name == "glasses" and style not in _FRONTAL_GLASSES:
        return None
    drawn = art_from_hexcode.get(accessory.hexcode, [])
    return _tight(_without_shadow(drawn[0])) if drawn else None


def _dressed(
    hexcode: str, animal: Art, worn: Art, accessory: Accessory, eyes: float, style: str
) -> list[SvgLayer | str]:
    tilt = (hashed_share(f"tilt|{hexcode}|{accessory.name}") - 0.5) * 6
    if not accessory.width:
        width = _NARROW.get(hexcode, _GLASSES_WIDTH) * _LARGER.get(style, 1.0)
        height = width * worn.height / worn.width
        middle = _middle_of(animal, eyes)
        # The bridge is at the eyes, so most of the lens is below them.
        glasses = SvgLayer(
            art=worn, x=middle - width / 2, y=eyes - height * 0.45, width=width, height=height, degrees=tilt
        )
        return [SvgLayer(art=animal, x=0, y=0, width=CANVAS, height=CANVAS), glasses]
    return _with_hat(animal, worn, accessory, tilt)


def _with_hat(animal: Art, worn: Art, accessory: Accessory, tilt: float) -> list[SvgLayer | str]:
    """Layers of an animal, shrunk until its hat fits above it, and of the hat."""
    top = _top_of_head(animal)
    height = accessory.width * worn.height / worn.width
    above = height * (1 - accessory.sink) - top
    scale = min(1.0, CANVAS / (CANVAS + max(above, 0.0) + 2))
    side, width, height = CANVAS * scale, accessory.width * scale, height * scale
    left, upper = (CANVAS - side) / 2, CANVAS - side
    brim = upper + top * scale + accessory.sink * height
    middle = left + _middle_of(animal, top + 8) * scale
    hat = SvgLayer(art=worn, x=middle - width / 2, y=brim - height, width=width, height=height, degrees=tilt)
    return [SvgLayer(art=animal, x=left, y=upper, width=side, height=side), hat]


@cache
def _opacity(art: Art) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return rgba_from_svg(svg_from_art(art), MEASURED_PIXELS)[..., 3]


def _top_of_head(art: Art) -> float:
    """The top of the head between the ears: the first opaque row of the middle columns."""
    middle = _opacity(art)[:, 44:56]
    rows = np.flatnonzero((middle > 128).mean(axis=1) > 0.5)
    return float(rows[0]) if len(rows) else 0.0


def _middle_of(art: Art, row: float) -> float:
    """The middle of the first and the last opaque column near a row."""
    near = _opacity(art)[max(0, int(row) - 3) : int(row) + 4]
    columns = np.flatnonzero((near > 128).any(axis=0))
    return float(columns[0] + columns[-1] + 1) / 2 if len(columns) else _FROM_ONE_SIDE


def _tight(art: Art) -> Art:
    """The art with its view box shrunk to its opaque part."""
    opaque = _opacity(art) > 24
    rows, columns = np.flatnonzero(opaque.any(axis=1)), np.flatnonzero(opaque.any(axis=0))
    # svg_from_art() centers the box on a square canvas: undo that.
    unit = max(art.width, art.height) / MEASURED_PIXELS
    left = art.left + art.width / 2 + (columns[0] - MEASURED_PIXELS / 2) * unit
    top = art.top + art.height / 2 + (rows[0] - MEASURED_PIXELS / 2) * unit
    width, height = (columns[-1] + 1 - columns[0]) * unit, (rows[-1] + 1 - rows[0]) * unit
    return replace(art, left=float(left), top=float(top), width=float(width), height=float(height))


def _only_shapes(art: Art, kept: range) -> Art:
    root, shapes = _shapes(art)
    for index, shape in enumerate(list(shapes)):
        if index not in kept and not shape.tag.endswith(("defs", "Gradient", "filter", "clipPath")):
            shapes.remove(shape)
    return replace(art, body="".join(ET.tostring(child, "unicode") for child in root))


def _without_shadow(art: Art) -> Art:
    """The art without the pale shadow that Streamline icons have on the floor."""
    root, shapes = _shapes(art)
    for shape in list(shapes):
        if shape.get("opacity") == ".15":
            shapes.remove(shape)
    return replace(art, body="".join(ET.tostring(child, "unicode") for child in root))


def _shapes(art: Art) -> tuple[ET.Element, ET.Element]:
    """The parsed body, and the element whose children are its shapes."""
    root = ET.fromstring(f'<svg xmlns="{SVG}" xmlns:xlink="{XLINK}">{art.body}</svg>')
    return root, root[0] if len(root) == 1 and len(root[0]) else root
