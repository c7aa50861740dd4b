"""A model to export from the published weights of a family."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from textual_vision.export.families.parts import FamilyNetworks, FamilyStage
from textual_vision.export.families.registry import (
    FAMILIES,
    Family,
    FamilySource,
    family_by_name,
    files_of_family,
    options_of_family,
)
from textual_vision.export.families.weights import read_checkpoint
from textual_vision.export.model.image_output import PixelModule
from textual_vision.export.model.stage import Stage, StagedModel
from textual_vision.runtime.errors import IntegrityError, TextualVisionError, UsageError
from textual_vision.runtime.files import sha256_of_file
from textual_vision.runtime.manifest import ImageSpec, TensorSpec

IMAGE, MORE_IMAGES = "image", "image_"
LICENSE = "that of the weights"


def model_from_family(source: FamilySource) -> StagedModel:
    """Return the model of a family's weights; the paths are its files, or folders that hold them.

    Raises UsageError when a file lacks or is of another family, IntegrityError when one is damaged.
    """
    family = family_by_name(source.name)
    options = options_of_family(family, source.options)
    paths = files_of_family(family, source.paths)
    try:
        networks = family.load(paths, options)
    except (UsageError, IntegrityError) as error:
        raise _of_other_family(error, family, paths) from None
    return model_from_networks(networks, name=family.name, digest=_digest(paths))


def model_from_networks(networks: FamilyNetworks, *, name: str, digest: str) -> StagedModel:
    """Return the model whose stages are the networks; float pictures become pixels inside the graphs."""
    stages = tuple(_stage(one, networks) for one in networks.stages)
    height, width = networks.image_size
    image = next(one for stage in stages for one in stage.spec.outputs if one.name == IMAGE)
    return StagedModel(
        name=name,
        stages=stages,
        image=ImageSpec(height=height, width=width, channels=int(image.shape[3])),
        noise=networks.noise,
        license=LICENSE,
        notice="",
        digest=digest,
        text=networks.text,
        tokenizer=networks.tokenizer,
        labels=networks.labels,
        parameters=networks.parameters,
        loops=networks.loops,
        card={"family": name, "assumed": dict(networks.assumed)},
        tables=networks.tables,
    )


def _stage(one: FamilyStage, networks: FamilyNetworks) -> Stage:
    outputs = list(one.spec.outputs)
    pictures = [
        index
        for index, spec in enumerate(outputs)
        if (spec.name == IMAGE or spec.name.startswith(MORE_IMAGES)) and spec.dtype == "float32"
    ]
    if not pictures:
        return Stage(spec=one.spec, module=one.module, margins=one.margins)
    for index in pictures:
        batch, colors, height, width = outputs[index].shape
        outputs[index] = TensorSpec(
            name=outputs[index].name, dtype="uint8", shape=(batch, height, width, colors)
        )
    module = PixelModule(
        one.module, networks.image_range, indices=tuple(pictures), rounding=networks.rounding
    )
    return Stage(spec=replace(one.spec, outputs=tuple(outputs)), module=module.eval(), margins=one.margins)


def _of_other_family(
    error: TextualVisionError, family: Family, paths: Mapping[str, Path]
) -> TextualVisionError:
    """The error, whose hint names the family that the first file looks like, if that is another."""
    first = paths[family.roles[0].name]
    try:
        keys = list(_keys(read_checkpoint(first)))
    except TextualVisionError:
        return error
    for other in FAMILIES:
        if other is not family and all(any(mark in key for key in keys) for mark in other.markers):
            if any(mark in key for mark in family.markers for key in keys):
                return error
            return type(error)(error.message, f"{first.name} looks like {other.name}: --family {other.name}")
    return error


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Tensor):
                yield str(key)
            else:
                yield from _keys(item)


def _digest(paths: Mapping[str, Path]) -> str:
    """SHA-256 over the digests of all files, by role."""
    found = hashlib.sha256()
    for role, path in sorted(paths.items()):
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            found.update(f"{role} {file.name} {sha256_of_file(file)}\n".encode())
    return found.hexdigest()
