"""The art and text packages of the emoji corpus: fetched with npm, checked and read."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textual_vision.runtime.errors import BackendMissingError, IntegrityError
from textual_vision.training.emoji.svg import Art

FETCH_SECONDS = 600
MEMBER_BYTES = 256 << 20  # the largest icons.json has 82 MB; anything much larger is no icon set


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package at one version; `sha256` is the digest of the tarball."""

    name: str
    version: str
    sha256: str

    @property
    def spec(self) -> str:
        """Return the name and version as npm writes them, NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @property
    def file_name(self) -> str:
        """The name of the tarball that `npm pack` writes."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True, kw_only=True)
class ArtPackage(Package):
    """An icon set; `style` is its name in prompts."""

    style: str
    license: str


@dataclass(frozen=True, kw_only=True)
class IconSet:
    """Icons by their names; `name_from_hexcode` as the set declares it, often empty."""

    style: str
    license: str
    icons: Mapping[str, Art]
    name_from_hexcode: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class EmojiText:
    """Emoji as emojibase lists them, shortcodes by hexcode, and names of groups by number."""

    emoji: list[dict[str, Any]]
    shortcodes: Mapping[str, tuple[str, ...]]
    groups: Mapping[int, str]
    subgroups: Mapping[int, str]


TEXT_PACKAGE = Package(
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)


def _iconify(name: str, version: str, sha256: str, style: str, license: str) -> ArtPackage:
    return ArtPackage(
        name=f"@iconify-json/{name}", version=version, sha256=sha256, style=style, license=license
    )


ART_PACKAGES = (
    _iconify(
        "noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "noto",
        "Apache-2.0",
    ),
    _iconify(
        "noto-v1",
        "1.2.5",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "noto classic",
        "Apache-2.0",
    ),
    _iconify(
        "twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "twemoji",
        "CC-BY-4.0",
    ),
    _iconify(
        "fluent-emoji",
        "1.2.7",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        "fluent",
        "MIT",
    ),
    _iconify(
        "fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "fluent flat",
        "MIT",
    ),
    _iconify(
        "emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "emojitwo",
        "CC-BY-4.0",
    ),
    _iconify(
        "fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "firefox",
        "CC-BY-4.0",
    ),
    _iconify(
        "streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        "streamline",
        "CC-BY-4.0",
    ),
)
ALL_PACKAGES: tuple[Package, ...] = (*ART_PACKAGES, TEXT_PACKAGE)


def fetch_packages(
    folder: Path,
    packages: tuple[Package, ...] = ALL_PACKAGES,
    *,
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Fetch missing tarballs into `folder` with `npm pack`, and check the digest of each.

    Raise BackendMissingError without npm or when a package cannot be fetched, IntegrityError for another
    digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        if not (folder / package.file_name).exists():
            progress(f"fetching {package.spec}")
            _npm_pack(package, folder)
        _check(package, folder / package.file_name)


def _npm_pack(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise BackendMissingError(
            f"npm is not installed, and {folder} lacks {package.file_name}",
            f"install Node.js, or put the output of `npm pack {package.spec}` from another machine "
            "into that folder and pass it as --packages",
        )
    # In a temporary folder: an interrupted download must not look like a package.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".npm-") as scratch:
        command = [npm, "pack", package.spec, "--silent", "--pack-destination", scratch]
        try:
            done = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _unfetched(package, f"no answer in {FETCH_SECONDS} s") from error
        tarball = Path(scratch) / package.file_name
        if done.returncode or not tarball.exists():
            complaint = done.stderr.strip().splitlines()
            raise _unfetched(package, complaint[-1] if complaint else f"npm left no {package.file_name}")
        tarball.rename(folder / package.file_name)


def _unfetched(package: Package, reason: str) -> BackendMissingError:
    return BackendMissingError(
        f"npm could not fetch {package.spec}: {reason}",
        f"check the network and `npm config get registry`, or run `npm pack {package.spec}` elsewhere "
        "and pass its folder as --packages",
    )


def _check(package: Package, tarball: Path) -> None:
    digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise IntegrityError(
            f"{tarball} has sha256 {digest[:16]}…, expected {package.sha256[:16]}…",
            "delete it and run the command again",
        )


def read_icon_set(package: ArtPackage, folder: Path) -> IconSet:
    """The icons of a fetched package with resolved aliases; IntegrityError when it is damaged."""
    tarball = folder / package.file_name
    members = _json_members(tarball, ["package/icons.json", "package/chars.json"])
    table, chars = members["package/icons.json"], members["package/chars.json"]
    try:
        sides = (table.get("width", 16), table.get("height", 16))
        icons = {name: _art(icon, sides) for name, icon in table["icons"].items()}
        for name, alias in table.get("aliases", {}).items():
            icon = {**table["icons"].get(alias["parent"], {}), **alias}
            if "body" in icon:
                icons[name] = _art(icon, sides)
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{tarball} has no icon set: {error!r}", _AGAIN) from error
    return IconSet(style=package.style, license=package.license, icons=icons, name_from_hexcode=chars)


def _art(icon: Mapping[str, Any], sides: tuple[float, float]) -> Art:
    return Art(
        body=icon["body"],
        left=icon.get("left", 0),
        top=icon.get("top", 0),
        width=icon.get("width", sides[0]),
        height=icon.get("height", sides[1]),
        mirrored=bool(icon.get("hFlip", False)),
    )


def read_emoji_text(folder: Path, package: Package = TEXT_PACKAGE) -> EmojiText:
    """Labels, tags and shortcodes in English; IntegrityError when the package is damaged."""
    sources = [f"package/en/shortcodes/{name}.json" for name in ("github", "cldr", "emojibase")]
    data, meta = "package/en/data.json", "package/meta/groups.json"
    members = _json_members(folder / package.file_name, [data, meta, *sources])
    shortcodes: dict[str, tuple[str, ...]] = {}
    for source in sources:
        for hexcode, names in members[source].items():
            listed = (names,) if isinstance(names, str) else tuple(names)
            shortcodes[hexcode] = tuple(dict.fromkeys((*shortcodes.get(hexcode, ()), *listed)))
    return EmojiText(
        emoji=members[data],
        shortcodes=shortcodes,
        groups={int(number): name for number, name in members[meta]["groups"].items()},
        subgroups={int(number): name for number, name in members[meta]["subgroups"].items()},
    )


_AGAIN = "delete it and run the command again"


def _json_members(tarball: Path, names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for member in archive:
                if member.name in names and member.isfile() and member.size <= MEMBER_BYTES:
                    stream = archive.extractfile(member)
                    assert stream is not None  # isfile() said so
                    found[member.name] = json.loads(stream.read())
    except FileNotFoundError as error:
        raise IntegrityError(f"{tarball} is missing", "run `tv-train data` with npm installed") from error
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise IntegrityError(f"{tarball} is damaged: {error}", _AGAIN) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise IntegrityError(f"{tarball} lacks {missing[0]}", _AGAIN)
    return found
