"""The families by name, and which of a user's files is which; importing it imports no torch."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual_vision.runtime.errors import UsageError, choice_hint

if TYPE_CHECKING:
    from textual_vision.export.families.parts import FamilyNetworks

LIST_HINT = "`tv-export families` lists them with their files"
SEPARATOR, OPTION_SEPARATOR = ",", ";"  # of the files and of the options in a source
OPTION_DIGITS = 6
LOADERS = "textual_vision.export.families"


@dataclass(frozen=True, kw_only=True)
class FileRole:
    """A file, or a folder, of a checkpoint. `patterns` are the names that it usually has."""

    name: str
    patterns: tuple[str, ...]
    is_folder: bool = False
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """A published system. `loader` is "module:function", which takes the paths of `roles` in their order.

    Optional ones are arguments by the role's name.

    `markers` are parts of keys that the first file's state dict has, and no other family's. `options` are
    arguments of the loader for whole numbers that the weights do not determine.
    """

    name: str
    title: str
    roles: tuple[FileRole, ...]
    loader: str
    markers: tuple[str, ...]
    options: tuple[str, ...] = ()

    def load(self, paths: Mapping[str, Path], options: Mapping[str, int]) -> FamilyNetworks:
        """The networks with their weights; raises what the family's own loader raises."""
        module, _, function = self.loader.partition(":")
        load: Callable[..., FamilyNetworks] = getattr(
            importlib.import_module(f"{LOADERS}.{module}"), function
        )
        needed = [paths[role.name] for role in self.roles if not role.optional]
        others = {role.name: paths[role.name] for role in self.roles if role.optional and role.name in paths}
        return load(*needed, **others, **options)


def _role(name: str, *patterns: str, is_folder: bool = False, optional: bool = False) -> FileRole:
    return FileRole(name=name, patterns=patterns, is_folder=is_folder, optional=optional)


_ENCODER = _role("text_encoder", "text_encoder*.pth")
_CAPTIONS = _role("vocabulary", "captions*.pickle", "*.pickle", "*.pkl")
_MERGES = _role("merges", "*merges*.txt", "bpe_simple_vocab*", "*.txt.gz")

FAMILIES = (
    Family(
        name="dcgan",
        title="a picture from noise",
        roles=(_role("generator", "netG*.pth", "*.pth", "*.pt"),),
        loader="dcgan:load_dcgan",
        markers=("main.0.weight",),
    ),
    Family(
        name="cgan",
        title="a picture from a class and noise",
        roles=(_role("generator", "*.pth", "*.pt"),),
        loader="dcgan:load_cgan",
        markers=("label_emb.weight",),
    ),
    Family(
        name="df-gan",
        title="a picture from a sentence, in one generator",
        roles=(_role("generator", "state_epoch*.pth", "netG*.pth", "*.pth"), _ENCODER, _CAPTIONS),
        loader="df_gan:load_df_gan",
        markers=("GBlocks.0.fuse1.affine0.fc_gamma",),
    ),
    Family(
        name="attngan",
        title="pictures of three sizes from words, with attention maps",
        roles=(_role("generator", "*AttnGAN*.pth", "netG*.pth", "*.pth"), _ENCODER, _CAPTIONS),
        loader="attngan:load_attngan",
        markers=("h_net2.att.conv_context",),
    ),
    Family(
        name="mirrorgan",
        title="AttnGAN's stages with attention to the sentence",
        roles=(
            _role("generator", "netG*.pth", "*.pth"),
            _ENCODER,
            _CAPTIONS,
            _role("caption_cnn", "caption_cnn*", "*cnn*.pkl", "*cnn*.pth", "*cnn*.ckpt", optional=True),
            _role("caption_rnn", "caption_rnn*", "*rnn*.pkl", "*rnn*.pth", "*rnn*.ckpt", optional=True),
        ),
        loader="mirrorgan.generator:load_mirrorgan",
        markers=("h_net2.att.conv_sentence_vis",),
    ),
    Family(
        name="textstylegan",
        title="StyleGAN's generator, conditioned on a sentence",
        roles=(_role("generator", "*.model", "*.pth", "*.pt"), _ENCODER, _CAPTIONS),
        loader="text_style_gan.loading:load_text_style_gan",
        markers=("style.1.linear.weight",),
        options=("size",),
    ),
    Family(
        name="galip",
        title="a generator that looks at its picture by CLIP's tower",
        roles=(
            _role("generator", "state_epoch*.pth", "*.pth"),
            _role("clip", "clip*.pt", "clip*.pth", "clip*.safetensors", "clip*"),
            _MERGES,
        ),
        loader="galip:load_galip",
        markers=("mapping.conv_fuse.weight",),
    ),
    Family(
        name="vq-gan",
        title="a picture from codes, and the codes of a picture",
        roles=(
            _role("checkpoint", "last.ckpt", "*.ckpt", "*.pth"),
            _role("config", "model.yaml", "*.yaml", "*.yml", optional=True),
        ),
        loader="quantizers.loading:load_vq_gan",
        markers=("quant_conv.weight", "decoder.up.0.block.0.norm1"),
        options=("size",),
    ),
    Family(
        name="vq-vae",
        title="a picture from codes, and the codes of a picture",
        roles=(_role("checkpoint", "vqvae*.pth", "*.pth"),),
        loader="quantizers.loading:load_vq_vae",
        markers=("inverse_conv_stack.0.weight",),
        options=("size",),
    ),
    Family(
        name="vq-diffusion",
        title="discrete diffusion over codes, with guidance",
        roles=(
            _role("checkpoint", "last.pth", "*.pth"),
            _MERGES,
            _role("mapping", "taming_vqvae*.pt", "*mapping*.pt", optional=True),
        ),
        loader="vq_diffusion.loading:load_vq_diffusion",
        markers=("content_emb.emb.weight",),
        options=("stride", "heads"),
    ),
    Family(
        name="paella",
        title="codes in a few steps of renoising",
        roles=(
            _role("paella", "paella*.pt"),
            _role("vqgan", "vqgan*.pt"),
            _role("byt5", "byt5*", is_folder=True),
        ),
        loader="paella.loading:load_paella",
        markers=("byt5_mapper.weight",),
        options=("steps", "grid", "heads"),
    ),
    Family(
        name="min-dalle",
        title="codes one by one, with a cache of keys and values",
        roles=(
            _role("encoder", "encoder*.pt"),
            _role("decoder", "decoder*.pt"),
            _role("detoker", "detoker*.pt"),
            _role("vocabulary", "vocab*.json"),
            _role("merges", "merges*.txt"),
        ),
        loader="min_dalle.loading:load_min_dalle",
        markers=("glu.fc0.weight",),
        options=("top_k", "heads"),
    ),
)


def family_by_name(name: str) -> Family:
    """The family called `name`; UsageError with the nearest name when there is none."""
    for family in FAMILIES:
        if family.name == name:
            return family
    names = [family.name for family in FAMILIES]
    raise UsageError(f"no family {name!r}", choice_hint(name, names))


def options_of_family(family: Family, given: Sequence[str]) -> dict[str, int]:
    """The options NAME=NUMBER by name; UsageError for an unknown name, or no whole number."""
    found: dict[str, int] = {}
    for text in given:
        name, equal, number = text.partition("=")
        if name not in family.options:
            known = ", ".join(family.options)
            hint = f"{family.name} takes {known}" if known else f"{family.name} takes none"
            raise UsageError(f"no option {name!r} of {family.name}", hint)
        if not equal or not number.isascii() or not number.isdecimal() or len(number) > OPTION_DIGITS:
            raise UsageError(f"{text!r} is not {name}=NUMBER", f"give a whole number, such as {name}=1")
        if int(number) < 1:
            raise UsageError(f"{family.name} with {text}", f"give at least {name}=1")
        if name in found:
            raise UsageError(f"{name} is given twice", "give it once")
        found[name] = int(number)
    return found


def source_of_family(name: str, paths: Sequence[str], options: Sequence[str] = ()) -> str:
    """The source "FAMILY:FILE,…" of a model, which `family_source` reads; raises UsageError for no files.

    `options` NAME=NUMBER follow the family's name, as "FAMILY;NAME=NUMBER:FILE,…".
    """
    family = family_by_name(name)
    if not paths:
        raise UsageError(f"no weights of {name}", _needed(family))
    if comma := next((path for path in paths if SEPARATOR in path), None):
        raise UsageError(f"{comma}: a path with a comma", "rename the file or its folder")
    options_of_family(family, options)
    return f"{OPTION_SEPARATOR.join((name, *options))}:{SEPARATOR.join(paths)}"


@dataclass(frozen=True, kw_only=True)
class FamilySource:
    """A family's name, the paths of its files, and its options NAME=NUMBER."""

    name: str
    paths: tuple[Path, ...]
    options: tuple[str, ...] = ()


def family_source(source: str) -> FamilySource | None:
    """A source "FAMILY:FILE,…" or "FAMILY;NAME=NUMBER:FILE,…"; None for any other."""
    start, colon, paths = source.partition(":")
    name, *options = start.split(OPTION_SEPARATOR)
    if not colon or not any(family.name == name for family in FAMILIES):
        return None
    files = tuple(Path(path) for path in paths.split(SEPARATOR))
    return FamilySource(name=name, paths=files, options=tuple(options))


def files_of_family(family: Family, given: Sequence[Path]) -> dict[str, Path]:
    """The path of each role: `given` are files, or folders that hold them.

    A file goes to the role whose longest pattern it matches; roles that are left are looked for in the same
    folders. Raises UsageError for a path that is not there or fits no role, and for a role without a file.
    """
    named: dict[str, Path] = {}
    folders: list[Path] = []
    for path in given:
        if not path.exists():
            raise UsageError(f"no file {path}", _needed(family))
        role = _role_of(family, path)
        if role is None and path.is_dir():
            folders.append(path)
            continue
        if role is None:
            raise UsageError(f"{path.name} is no file of {family.name}", _needed(family))
        if role.name in named:
            problem = (
                f"both {named[role.name].name} and {path.name} could be the {role.name} of {family.name}"
            )
            raise UsageError(problem, "name one of them")
        named[role.name] = path
        folders.append(path.parent)
    for role in family.roles:
        if role.name not in named and (found := _found_in(family, role, folders, set(named.values()))):
            named[role.name] = found
    for role in family.roles:
        if role.name not in named and not role.optional:
            raise UsageError(f"{family.name} needs its {role.name} too", _needed(family))
    return named


def _role_of(family: Family, path: Path) -> FileRole | None:
    matching = [
        (len(pattern), -number, role)
        for number, role in enumerate(family.roles)
        for pattern in role.patterns
        if role.is_folder <= path.is_dir() and fnmatch.fnmatch(path.name.lower(), pattern.lower())
    ]
    return max(matching, key=lambda one: one[:2])[2] if matching else None


def _found_in(family: Family, role: FileRole, folders: Sequence[Path], taken: set[Path]) -> Path | None:
    """The only path of the folders for the role; UsageError when there are several."""
    for folder in dict.fromkeys(folders):
        found = [
            path for path in sorted(folder.iterdir()) if path not in taken and _role_of(family, path) == role
        ]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UsageError(f"{folder}: {names} could each be the {role.name}", "name one of them")
        if found:
            return found[0]
    return None


def _needed(family: Family) -> str:
    files = ", ".join(f"{role.name} ({role.patterns[0]})" for role in family.roles)
    return f"{family.name} takes {files}; {LIST_HINT}"
