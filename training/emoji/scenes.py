"""Landscapes of ground, water, backdrop and sky, with captions of these parts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from textual_vision.training.data.records import Record
from textual_vision.training.data.splits import is_trained
from textual_vision.training.emoji.concepts import concept_from_hexcode, with_article
from textual_vision.training.emoji.scene_layers import Scene, layers_from_scene, plants_for
from textual_vision.training.emoji.svg import Art, SvgRecord, svg_from_layers

# Part -> the words for it; the first is the plainest.
GROUNDS = {
    "forest": ("green forest", "forest"),
    "snow": ("snowy forest", "winter forest"),
    "desert": ("desert", "sandy desert"),
    "meadow": ("flower meadow", "green meadow"),
}
WATERS = {"river": "river", "lake": "lake", "": ""}
SKIES = {"blue": "blue sky", "sunset": "sunset sky", "night": "night sky"}
# Without a sun at night and a moon at noon, which no prompt asks for.
BACKDROPS = {
    "blue": ("", "mountains", "sun"),
    "sunset": ("", "mountains", "sun", "moon"),
    "night": ("", "mountains", "moon"),
}


def all_scenes() -> list[Scene]:
    """Every possible combination of parts, in a fixed order."""
    return [
        Scene(ground=ground, water=water, backdrop=backdrop, sky=sky)
        for ground in GROUNDS
        for water in WATERS
        for sky in SKIES
        for backdrop in BACKDROPS[sky]
    ]


def scene_captions(scene: Scene) -> tuple[str, ...]:
    """Captions of a scene; the short ones leave out parts."""
    plain, other = GROUNDS[scene.ground]
    water, sky = WATERS[scene.water], SKIES[scene.sky]
    parts = [part for part in (water, scene.backdrop) if part]
    articled = [_articled(part) for part in parts]
    whole = f"{plain} with {' and '.join(parts)}" if parts else plain
    a_whole = f"{with_article(plain)} with {' and '.join(articled)}" if parts else with_article(plain)
    captions = [f"{whole}, {sky}", whole, f"{a_whole} under {with_article(sky)}"]
    if articled:
        captions.append(f"{other} and {' and '.join(articled)}")
    if water:
        captions += [f"{plain} with {water}", f"{with_article(plain)} with {_articled(water)}, {sky}"]
    captions.append(f"{other} under {with_article(sky)}")
    return tuple(dict.fromkeys(captions))


def _articled(part: str) -> str:
    return f"the {part}" if part in ("sun", "moon") else with_article(part)


def scene_drawings(
    shown: Mapping[str, Mapping[str, list[Art]]],
    license_from_style: Mapping[str, str],
    *,
    per_combination: int,
) -> Iterator[SvgRecord]:
    """`per_combination` layouts of every scene, the styles in turn; the same on every machine."""
    # A held-out icon must not occur as a flower or a cloud of a scene.
    trained = {
        style: {code: drawn for code, drawn in art.items() if is_trained(concept_from_hexcode(code), style)}
        for style, art in shown.items()
    }
    for number, scene in enumerate(all_scenes()):
        styles = [style for style in trained if plants_for(scene.ground, trained[style])]
        for layout in range(per_combination if styles else 0):
            style = styles[(layout + number) % len(styles)]
            record = _record(scene, style, layout, license_from_style[style])
            layers = layers_from_scene(scene, trained[style], random.Random(record.key))
            yield SvgRecord(record=record, svg=svg_from_layers(layers))


def _record(scene: Scene, style: str, layout: int, license: str) -> Record:
    captions = scene_captions(scene)
    return Record(
        key=f"{scene.concept}/{style}/{layout}",
        concept=scene.concept,
        kind="scene",
        label=captions[0],
        captions=captions,
        style=style,
        group="travel-places",
        subgroup="scene",
        license=license,
    )
