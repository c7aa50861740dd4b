"""The emoji corpus on disk from fetched packages: collect icons and compositions, render and write them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from textual_vision.runtime.errors import IntegrityError
from textual_vision.training.data.corpus import (
    PICTURES,
    RECORDS,
    SCHEMA,
    SUMMARY,
    fresh_corpus,
    json_from_record,
    npy_header,
    refuse_foreign_folder,
)
from textual_vision.training.data.records import Pixels, Record, with_splits
from textual_vision.training.emoji.concepts import IconNames, emoji_from_text
from textual_vision.training.emoji.notice import CORPUS_CREDITS
from textual_vision.training.emoji.npm_packages import (
    ART_PACKAGES,
    TEXT_PACKAGE,
    ArtPackage,
    IconSet,
    Package,
    read_emoji_text,
    read_icon_set,
)
from textual_vision.training.emoji.scenes import scene_drawings
from textual_vision.training.emoji.svg import Art, SvgRecord, picture_from_svg, svg_from_art
from textual_vision.training.emoji.wearing import wearing_drawings

RENDER_CHUNK = 32
SCENE_LAYOUTS = 16  # 120 scenes in this many layouts each: 1,920 pictures
Shown = dict[str, dict[str, list[Art]]]  # style -> hexcode -> icons of it
Progress = Callable[[int, int], None]


def build_corpus(
    folder: Path,
    packages: Path,
    *,
    size: int = 128,
    tones: bool = False,
    scenes_per_combination: int = SCENE_LAYOUTS,
    workers: int = 1,
    art: Sequence[ArtPackage] = ART_PACKAGES,
    text: Package = TEXT_PACKAGE,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Write the corpus of the packages in `packages` to `folder`, whole or not at all; return its summary.

    Raise UsageError when `folder` has other files, IntegrityError for damaged packages.
    """
    refuse_foreign_folder(folder)
    drawings = collect_drawings(packages, art, text, tones=tones, scenes=scenes_per_combination)
    if not drawings:
        raise IntegrityError(
            f"the packages in {packages} have no known icon", "delete them and run the command again"
        )
    with fresh_corpus(folder) as scratch:
        return _write(scratch, drawings, size, workers, (*art, text), progress)


def collect_drawings(
    packages: Path,
    art: Sequence[ArtPackage],
    text: Package,
    *,
    tones: bool = False,
    scenes: int = SCENE_LAYOUTS,
) -> list[SvgRecord]:
    """Every picture of the corpus as SVG, with its record and split, in a fixed order."""
    emoji_text = read_emoji_text(packages, text)
    icon_sets = [_completed(icon_set) for icon_set in _read_all(packages, art)]
    names = IconNames(emoji_text, emoji_from_text(emoji_text, tones=tones), icon_sets)
    shown: Shown = {}
    drawings: list[SvgRecord] = []
    for icon_set in icon_sets:
        drawings += _icon_drawings(icon_set, names, shown.setdefault(icon_set.style, {}))
    license_from_style = {package.style: package.license for package in art}
    drawings += wearing_drawings(shown, license_from_style)
    drawings += scene_drawings(shown, license_from_style, per_combination=scenes)
    records = with_splits(drawing.record for drawing in drawings)
    return [replace(drawing, record=record) for drawing, record in zip(drawings, records, strict=True)]


def _read_all(packages: Path, art: Sequence[ArtPackage]) -> list[IconSet]:
    icon_sets = [read_icon_set(package, packages) for package in art]
    tables = {icon_set.style: icon_set.name_from_hexcode for icon_set in icon_sets}
    # The two Fluent sets name their icons alike, but only the flat one has their code points.
    flat = tables.get("fluent flat", {})
    return [
        replace(icon_set, name_from_hexcode=flat) if icon_set.style == "fluent" else icon_set
        for icon_set in icon_sets
    ]


def _completed(icon_set: IconSet) -> IconSet:
    present = {code: name for code, name in icon_set.name_from_hexcode.items() if name in icon_set.icons}
    return replace(icon_set, name_from_hexcode=present)


def _icon_drawings(icon_set: IconSet, names: IconNames, shown: dict[str, list[Art]]) -> list[SvgRecord]:
    drawings = []
    for name, emoji in names.emoji_from_icon(icon_set).items():
        art = icon_set.icons[name]
        known = shown.setdefault(emoji.hexcode, [])
        if art in known:  # an alias of an icon that is already there
            continue
        known.append(art)
        record = Record(
            key=f"{emoji.hexcode}/{icon_set.style}/{len(known)}",
            concept=emoji.concept,
            kind="emoji",
            label=emoji.label,
            captions=emoji.captions,
            style=icon_set.style,
            group=emoji.group,
            subgroup=emoji.subgroup,
            license=icon_set.license,
            tone=emoji.tone,
        )
        drawings.append(SvgRecord(record=record, svg=svg_from_art(art)))
    return drawings


def _write(
    folder: Path,
    drawings: Sequence[SvgRecord],
    size: int,
    workers: int,
    packages: Iterable[Package],
    progress: Progress,
) -> dict[str, Any]:
    with (folder / PICTURES).open("wb") as pictures:
        pictures.write(npy_header(len(drawings), size))
        _render_into(pictures, drawings, size, workers, progress)
    records = [drawing.record for drawing in drawings]
    lines = "".join(f"{json_from_record(record)}\n" for record in records)
    (folder / RECORDS).write_text(lines, "utf-8")
    summary = {
        "schema": SCHEMA,
        "size": size,
        "pictures": len(records),
        "splits": dict(Counter(record.split for record in records)),
        "kinds": dict(Counter(record.kind for record in records)),
        "styles": dict(Counter(record.style for record in records)),
        "packages": {package.spec: package.sha256 for package in packages},
        "credits": CORPUS_CREDITS,
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return summary


def _render_into(
    pictures: BinaryIO, drawings: Sequence[SvgRecord], size: int, workers: int, progress: Progress
) -> None:
    """Render into a file by writing: with a memory map a full disk would kill the process."""
    svgs = [drawing.svg for drawing in drawings]
    jobs = [(svgs[start : start + RENDER_CHUNK], size) for start in range(0, len(svgs), RENDER_CHUNK)]
    if workers <= 1:
        _write_rendered(pictures, map(_render, jobs), len(svgs), progress)
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            _write_rendered(pictures, pool.map(_render, jobs), len(svgs), progress)
        finally:  # else an error or an interrupt would first render all the rest
            pool.shutdown(cancel_futures=True)


def _write_rendered(pictures: BinaryIO, results: Iterable[Pixels], total: int, progress: Progress) -> None:
    done = 0
    for rendered in results:
        pictures.write(rendered.data)
        done += len(rendered)
        progress(done, total)


def _render(job: tuple[list[str], int]) -> Pixels:
    svgs, size = job
    return np.stack([picture_from_svg(svg, size) for svg in svgs])
