"""MS-COCO captions in COCO's own layout.

ROOT/annotations/captions_<name>.json    images, annotations (five captions an image), licenses
ROOT/<name>/*.jpg                        the pictures; or ROOT/images/<name>
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.training.data.picture_files import Entry, caption_from_text, require_folder
from textual_vision.training.data.splits import TEST, TRAIN, VALIDATION, hashed_share

VALIDATION_SHARE = 0.1  # of COCO's validation pictures
_LAYOUT = "COCO's layout is ROOT/annotations/captions_train2017.json and ROOT/train2017/*.jpg"


def coco_entries(root: Path) -> Iterator[Entry]:
    """Every image of every captions file.

    Images of `val…` files belong to the splits `test` and, a share, `validation`; others to `train`. Images
    without a readable caption are damaged entries. Raise UsageError for another layout, IntegrityError for a
    damaged annotation file.
    """
    require_folder(root, "COCO")
    files = sorted((root / "annotations").glob("captions_*.json"))
    if not files:
        raise UsageError(f"{root} has no annotations/captions_*.json", _LAYOUT)
    for file in files:
        yield from _entries_of(root, file)


def _entries_of(root: Path, file: Path) -> Iterator[Entry]:
    name = file.stem.removeprefix("captions_")
    pictures = next((place for place in (root / name, root / "images" / name) if place.is_dir()), None)
    if pictures is None:
        raise UsageError(f"{root} has {file.name} but no folder {name} of pictures", _LAYOUT)
    try:
        table = json.loads(file.read_text("utf-8"))
        captions = _captions_by_image(table["annotations"])
        licenses = {row["id"]: row["name"] for row in table.get("licenses", ())}
        images = list(table["images"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{file} is damaged: {error!r}", "fetch COCO's annotations again") from error
    for image in images:
        entry = _entry(image, pictures, captions, licenses)
        yield replace(entry, split=_split(name, entry.key))


def _split(name: str, key: str) -> str:
    """The split of an image: of COCO's validation pictures most are `test`, a share `validation`."""
    if not name.startswith("val"):
        return TRAIN
    return VALIDATION if hashed_share(key) < VALIDATION_SHARE else TEST


def _captions_by_image(annotations: list[dict[str, Any]]) -> dict[object, tuple[str, ...]]:
    found: dict[object, tuple[str, ...]] = {}
    for annotation in annotations:
        caption = caption_from_text(annotation.get("caption"))
        if caption:
            image = annotation["image_id"]
            found[image] = (*found.get(image, ()), caption)
    return found


def _entry(
    image: Any,
    pictures: Path,
    captions: dict[object, tuple[str, ...]],
    licenses: dict[object, str],
) -> Entry:
    file_name = image.get("file_name") if isinstance(image, dict) else None
    # A bare name only: an annotation file must not refer to files outside its folder.
    if not isinstance(file_name, str) or Path(file_name).name != file_name:
        return Entry(key=str(file_name), captions=(), damage="the image has no plain file name")
    return Entry(
        key=f"{pictures.name}/{file_name}",
        captions=captions.get(image.get("id"), ()),
        path=pictures / file_name,
        license=str(licenses.get(image.get("license"), "")),
    )
