"""Things so small that tests of them take seconds.

Two icon sets and their words, packed as npm packs them; colored shapes, a model and a schedule.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from textual_vision.training.config import TrainConfig
from textual_vision.training.config_file import config_from_json
from textual_vision.training.emoji.npm_packages import ArtPackage, Package

FACE = '<circle cx="8" cy="8" r="7" fill="{fill}"/>'
SUNGLASSED = (
    '<circle cx="18" cy="18" r="18" fill="#fc4"/><path fill="#223" d="M2 11h32v7h-32z"/>'
    '<path fill="#640" d="M10 24h16v3h-16z"/>'
)
SHADES = (
    '<defs><linearGradient id="a"><stop stop-color="#111"/></linearGradient></defs>'
    '<path fill="url(#a)" d="M1 6h14v4h-14z"/>'
)
WORDS: list[tuple[str, str, list[str], int]] = [
    ("1F436", "dog face", ["pet", "puppy"], 3),
    ("1F431", "cat face", ["pet", "kitten"], 3),
    ("1F98A", "fox", ["animal"], 3),
    ("1F60E", "smiling face with sunglasses", ["cool"], 0),
    ("1F576", "sunglasses", ["eye"], 7),
    ("1F451", "crown", ["king"], 7),
    ("1F332", "evergreen tree", ["tree"], 3),
    ("1F335", "cactus", ["desert"], 3),
    ("1F680", "rocket", ["space"], 5),
    ("267B", "recycling symbol", ["recycle"], 8),
]
GROUPS = {"0": "smileys-emotion", "3": "animals-nature", "5": "travel-places", "7": "objects", "8": "symbols"}


def pack(path: Path, members: dict[str, Any]) -> str:
    """Writes a tarball of JSON members and returns its SHA-256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def icon_set(side: int) -> dict[str, Any]:
    bodies = {code: FACE.format(fill=f"#{int(code, 16) % 4096:03x}") for code, *_ in WORDS}
    bodies["1F576"] = SHADES
    icons: dict[str, Any] = {
        label.replace(" ", "-"): {"body": bodies[code], "width": 16, "height": 16}
        for code, label, *_ in WORDS
    }
    icons["dog-face-light-skin-tone"] = {"body": FACE.format(fill="#fed")}
    icons["smiling-face-with-sunglasses"] = {"body": SUNGLASSED, "width": 36, "height": 36}
    return {
        "prefix": "x",
        "icons": icons,
        "aliases": {"dog": {"parent": "dog-face"}},
        "width": side,
        "height": side,
    }


@dataclass(frozen=True, kw_only=True)
class TinyPackages:
    folder: Path
    art: tuple[ArtPackage, ...]
    text: Package


@pytest.fixture
def tiny_packages(tmp_path: Path) -> TinyPackages:
    """Two art packages, `twemoji` with code points and `firefox` with names alone, and their words."""
    folder = tmp_path / "packages"
    folder.mkdir()
    chars = {"twemoji": {code.lower(): label.replace(" ", "-") for code, label, *_ in WORDS}, "firefox": {}}
    art = tuple(tiny_art(folder, style, table) for style, table in chars.items())
    return TinyPackages(folder=folder, art=art, text=tiny_text(folder))


def tiny_art(folder: Path, style: str, chars: dict[str, str]) -> ArtPackage:
    package = ArtPackage(
        name=f"@iconify-json/{style}", version="1.0.0", sha256="", style=style, license="MIT"
    )
    members = {"package/icons.json": icon_set(16), "package/chars.json": chars}
    return replace(package, sha256=pack(folder / package.file_name, members))


def tiny_text(folder: Path) -> Package:
    """emojibase's files for WORDS."""
    emoji = [
        {"hexcode": code, "label": label, "tags": tags, "group": group, "subgroup": 1}
        for code, label, tags, group in WORDS
    ]
    emoji.append({"hexcode": "1F1E6", "label": "regional indicator A"})
    emoji[0]["skins"] = [{"hexcode": "1F436-1F3FB", "label": "dog face: light skin tone", "tone": 1}]
    shortcodes = {"1F436": ["dog", "dog_face"], "1F680": "rocket"}
    members = {
        "package/en/data.json": emoji,
        "package/meta/groups.json": {"groups": GROUPS, "subgroups": {"1": "some"}},
        **{f"package/en/shortcodes/{name}.json": shortcodes for name in ("github", "cldr", "emojibase")},
    }
    package = Package(name="emojibase-data", version="1.0.0", sha256="")
    return replace(package, sha256=pack(folder / package.file_name, members))


COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
SHAPES = ("disc", "square", "bar", "cross", "ring", "corner")
SIZE = 16


class Shapes:
    """Twenty-four colored shapes, a `PictureSource`; half of them are seen twice in an epoch."""

    def __init__(self) -> None:
        self.pairs = [(color, shape) for color in COLORS for shape in SHAPES]

    def __len__(self) -> int:
        return len(self.pairs)

    def picture(self, index: int) -> NDArray[np.uint8]:
        color, shape = self.pairs[index]
        y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
        radius = np.hypot(x, y)
        inside = {
            "disc": radius < 5,
            "square": np.maximum(abs(x), abs(y)) < 5,
            "bar": abs(y) < 2.5,
            "cross": np.minimum(abs(x), abs(y)) < 2,
            "ring": (radius < 7) & (radius > 4),
            "corner": (x < 0) & (y < 0),
        }[shape]
        return np.where(inside[:, :, None], COLORS[color], 255).astype(np.uint8)

    def captions(self, index: int) -> Sequence[str]:
        color, shape = self.pairs[index]
        return (f"{color} {shape}", f"a {shape} that is {color}")

    def style(self, index: int) -> str:
        return "flat" if index % 3 else "bold"

    def is_composition(self, index: int) -> bool:
        return index % 4 == 0

    def same_concept(self, index: int) -> Sequence[int]:
        return range(index % 8, len(self), 8) if self.is_composition(index) else ()

    def weight(self, index: int) -> int:
        return 1 + index % 2


TINY = {
    "name": "tiny",
    "corpus": "folder",
    "seed": 5,
    "model": {
        "image_size": SIZE,
        "noise": 4,
        "text": {
            "vocabulary": 600, "layers": 1, "groups": 8, "codebook_size": 12, "embed_dim": 16,
            "max_tokens": 12,
        },
        "codebook": {"codebook_size": 16, "codebook_dim": 8, "channels": [8]},
        "latent": {
            "grid": 8, "steps": 6, "split_doublings": 2, "embed_dim": 16, "blocks": 1, "heads": 2,
        },
        "retrieval": {"entries": 30, "dim": 6, "count": 3},
        "generator": {"channels": [16, 8], "condition": 16},
        "discriminator": {"input": "pixels", "channels": [8, 8]},
    },
    "sampling": {
        "guidance_scale": 2.5, "temperature": 0.2, "stochastic_steps": 4, "query_noise": 0.3,
        "copy_strength": 1.0, "copy_strength_composition": 1.0, "nearest_bonus": 0.0,
    },
    "text_phase": {"kmeans_iterations": 3, "token_states": 1000},
    "codebook_phase": {"steps": 4, "batch_size": 8, "learning_rate": 0.002, "warmup_steps": 2},
    "latent_phase": {"steps": 4, "batch_size": 8, "learning_rate": 0.001, "warmup_steps": 2},
    "joint_phase": {"steps": 4, "batch_size": 8, "learning_rate": 0.0003, "warmup_steps": 2},
    "losses": {"perceptual": 0.0},
    "encoder_update_interval": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Results are compared bit for bit; and the machine may be busy."""
    torch.set_num_threads(1)


@pytest.fixture
def tiny_config() -> TrainConfig:
    return config_from_json(TINY)


@pytest.fixture
def shapes() -> Shapes:
    return Shapes()
