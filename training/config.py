"""What a model and its training are made of: every dimension, every switch, as JSON on disk."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from textual_vision.runtime.errors import UsageError

CONFIG_FOLDER = Path(__file__).parent / "configs"
SCHEMA_VERSION = 1
CORPORA = ("emoji", "coco", "folder", "shards")
PRECISIONS = ("auto", "float32", "bfloat16")
KEEPS = ("all", "generator")  # of what the joint phase changed
SEES = ("pixels", "features")
MOST_CODES = 2048  # of a codebook with a memory, which keeps them in half precision: it counts so far
NORMS = ("none", "batch", "spectral")  # of the discriminator
OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text encoder: the first layers of MiniLM, product-quantized."""

    vocabulary: int = 8192  # word pieces kept of MiniLM's 30,522
    max_tokens: int = 32
    hidden: int = 384
    layers: int = 3  # states of layer 3 are still word-like; deeper ones forget the word
    heads: int = 12
    intermediate: int = 1536
    groups: int = 8  # sub-spaces, each with its own codes
    codes: int = 1024  # per sub-space
    width: int = 256  # of the quantized token states that the other stages see


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """The image codebook and the encoder that learns it (the encoder is not shipped to a device)."""

    codes: int = 512
    width: int = 32
    channels: tuple[int, ...] = (48, 96)  # one stride-2 convolution each
    decay: float = 0.99  # of the exponential moving average of the rows
    revive_below: float = 0.02  # a row used less than this share of the mean is dead


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Text and noise to a grid of latents, on a lattice that each step makes twice as dense."""

    grid: int = 16  # rows and columns of image codes
    patch: int = 2  # rows and columns of codes that are one position of the network
    steps: int = 8  # in which a drawing's codes are chosen; 1: all at once
    halved: int = 2  # of the doublings of the lattice, the last so many take two steps each
    width: int = 256
    blocks: int = 4
    heads: int = 4
    head_width: int = 384  # of the head that chooses the codes of a patch
    memory: int = 10469  # pictures of the corpus that are looked up by their captions; 0: none
    memory_key: int = 64  # numbers that a caption is looked up by
    drafts: int = 8  # pictures that are found for a drawing
    wander: float = 0.3  # how far the seed moves what is looked for, which has length 1
    # Where the nearest caption is of one thing, a drawing holds on to the drafts: it takes so much more of
    # them than it learned to (1: as learned), and the nearest has a head start, in nats. For what several
    # have in different places, each place by itself finds unlikely.
    follow: float = 1.0
    lead: float = 0.0
    # Where it is of several, the drawing combines what drafts show each a part of, and takes so much of them:
    # the less, the more it goes by the words. In its first steps, which decide what is seen, it then follows
    # its words more than it would (Ho & Salimans 2022, classifier-free guidance: 1 is as learned). Without
    # drafts it always does. In the same steps its noise chooses among what the words leave open (0: the
    # likeliest). Later ones fill in; they cost most, and guiding costs as much again.
    follow_combining: float = 1.0
    open_steps: int = 6
    guidance: float = 2.5
    temperature: float = 0.2

    def is_guided(self, step: int) -> bool:
        """Not the first step of several, which chooses a corner: led away from white, specks begin there."""
        return self.guidance != 1 and min(1, self.steps - 1) <= step < self.open_steps


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Codes to pixels: one transposed convolution between two entries of `channels`."""

    channels: tuple[int, ...] = (128, 64, 32)
    residual_blocks: int = 1  # at the resolution of the codes
    condition: int = 192


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Judges pictures with their words; training only."""

    sees: str = "pixels"  # pixels | features: of EfficientNet-Lite0, `channels[-1]` wide at each of 3 scales
    channels: tuple[int, ...] = (32, 64, 128, 128)
    norm: str = "none"  # none | batch | spectral: batch norm works against the gradient penalty


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All stages of one model."""

    image_size: int = 64  # pixels, square
    noise: int = 32  # standard normals per picture
    text: TextConfig = field(default_factory=TextConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """One phase of the schedule."""

    steps: int
    batch: int
    learning_rate: float
    optimizer: str = "adamw"  # adamw | muon: for the matrices of the attention blocks, adamw for the rest
    warmup: int = 50  # steps of linear warm-up; a cosine down to `phases.FINAL_RATE` follows


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms; zero switches a term (and its cost) off."""

    l1: float = 1.0
    l2: float = 1.0
    perceptual: float = 0.3  # ignores brightness, hence never without l1
    reconstruction: float = 3.0  # of what is drawn from all of a picture's own codes, in the joint phase
    commitment: float = 0.25
    code_cross_entropy: float = 1.0
    logit_scale: float = 4.0  # of the dot product of a raw latent and a code
    code_smoothing: float = 0.2  # share of the target spread over codes that mean nearly the same
    smoothing_scale: float = 50.0  # how near: of the cosine between two codes
    code_noise: float = 0.1  # share of the codes that a step is told falsely: it will meet its own mistakes
    words_dropped: float = 0.1  # share of the captions that the latent network isn't told
    kl: float = 0.002
    fine_cross_entropy: float = 0.1  # of the last steps in the joint phase, where the picture teaches too
    adversarial: float = 0.1
    feature_matching: float = 1.0
    mismatch: float = 1.0  # weight of real pictures with another caption; 0 is the paper to the letter
    gradient_penalty: float = 2.0  # R1 gamma
    gradient_penalty_every: int = 8
    diff_augment: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A model, its data and its schedule."""

    name: str
    schema_version: int = SCHEMA_VERSION
    seed: int = 0
    corpus: str = "emoji"  # emoji | coco | folder | shards
    model: ModelConfig = field(default_factory=ModelConfig)
    text_phase: PhaseConfig = field(
        default_factory=lambda: PhaseConfig(steps=30, batch=4096, learning_rate=0.0)
    )
    codebook_phase: PhaseConfig = field(
        default_factory=lambda: PhaseConfig(steps=1500, batch=64, learning_rate=2e-3)
    )
    latent_phase: PhaseConfig = field(
        default_factory=lambda: PhaseConfig(steps=3000, batch=64, learning_rate=1e-3)
    )
    joint_phase: PhaseConfig = field(
        default_factory=lambda: PhaseConfig(steps=800, batch=32, learning_rate=3e-4)
    )
    losses: LossConfig = field(default_factory=LossConfig)
    refresh_every: int = (
        4  # steps of the joint phase between two of the image encoder's; 0: it stays as it is
    )
    ema: float = 0.998  # of the weights that are kept
    # Of what the joint phase changed: the share that draws best by the validation pictures is kept (the
    # last without such pictures). Fine-tuning against a discriminator can wash out colors.
    joint_shares: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    joint_keeps: str = (
        "all"  # all | generator: of that change; generator: and the image encoder's, no other's
    )
    style_in_caption: float = 0.6  # share of captions that name the art style
    checkpoint_minutes: float = 4.0
    precision: str = "auto"  # auto | float32 | bfloat16; auto: bfloat16 where the device is fast at it

    def __post_init__(self) -> None:
        check_consistent(self)


def check_consistent(config: TrainConfig) -> None:
    """Raises UsageError when two fields contradict each other."""
    for holds, message in [*_choices(config), *_sizes(config.model), *_methods(config)]:
        if not holds:
            raise UsageError(f"config {config.name!r}: {message}", "change what is named here")


Rules = list[tuple[bool, str]]  # what must hold, and what is said where it doesn't


def _choices(config: TrainConfig) -> Rules:
    """Fields that take one of a few values."""
    found = [
        ("corpus", config.corpus, CORPORA),
        ("precision", config.precision, PRECISIONS),
        ("joint_keeps", config.joint_keeps, KEEPS),
        ("model.discriminator.sees", config.model.discriminator.sees, SEES),
        ("model.discriminator.norm", config.model.discriminator.norm, NORMS),
        *(
            (f"{name}.optimizer", getattr(config, name).optimizer, OPTIMIZERS)
            for name in ("codebook_phase", "latent_phase", "joint_phase")
        ),
    ]
    return [
        (value in allowed, f"{name} is {value!r}, not one of {', '.join(allowed)}")
        for name, value, allowed in found
    ]


def _sizes(model: ModelConfig) -> Rules:
    """What is halved, doubled and divided must come out even."""
    upscale = 2 ** (len(model.generator.channels) - 1)
    latent, text = model.latent, model.text
    side = latent.grid // max(1, latent.patch)
    widths = ((text.hidden, text.heads), (latent.width, latent.heads))
    return [
        (
            latent.grid * upscale == model.image_size,
            f"model.latent.grid {latent.grid} x {upscale} (len(model.generator.channels) - 1 "
            f"doublings) is not model.image_size {model.image_size}",
        ),
        (
            latent.grid * 2 ** len(model.codebook.channels) == model.image_size,
            f"model.codebook.channels has {len(model.codebook.channels)} halvings: {model.image_size} "
            f"pixels do not become model.latent.grid {latent.grid}",
        ),
        (
            text.hidden % text.groups == 0,
            f"model.text.hidden {text.hidden} is not a multiple of model.text.groups {text.groups}",
        ),
        (
            latent.patch >= 1 and latent.grid % latent.patch == 0,
            f"model.latent.grid {latent.grid} is not made of patches of {latent.patch} x {latent.patch}",
        ),
        (
            latent.steps >= 1 and side % 2 ** ((latent.steps - latent.halved) // 2) == 0,
            f"model.latent.steps is {latent.steps}: a grid of {side} patches can't be halved that often",
        ),
        (
            latent.halved >= 0 and 2 * latent.halved < latent.steps,
            f"model.latent.halved is {latent.halved}: there are not so many doublings in "
            f"model.latent.steps {latent.steps}",
        ),
        (
            1 <= latent.drafts <= latent.memory or latent.memory == 0,
            f"model.latent.drafts {latent.drafts} is not from 1 to model.latent.memory {latent.memory}",
        ),
        (
            1 <= latent.memory_key <= text.width,
            f"model.latent.memory_key {latent.memory_key} is not from 1 to model.text.width {text.width}",
        ),
        (
            min(latent.follow, latent.follow_combining, latent.lead) >= 0,
            f"model.latent.follow {latent.follow}, model.latent.follow_combining {latent.follow_combining} "
            f"and model.latent.lead {latent.lead} are at least 0",
        ),
        (
            model.codebook.codes <= MOST_CODES or latent.memory == 0,
            f"model.codebook.codes {model.codebook.codes} is more than the {MOST_CODES} that "
            "model.latent.memory can hold",
        ),
        (
            all(heads > 0 and width % heads == 0 for width, heads in widths),
            "a width of model.text or model.latent is not a multiple of its heads",
        ),
        (
            model.image_size // 2 ** len(model.discriminator.channels) == 4,
            f"model.discriminator.channels has {len(model.discriminator.channels)} halvings: "
            f"{model.image_size} pixels do not become 4",
        ),
    ]


def _methods(config: TrainConfig) -> Rules:
    """Ways of training and drawing that exclude or need each other."""
    latent, discriminator = config.model.latent, config.model.discriminator
    return [
        (
            1 <= latent.open_steps <= latent.steps,
            f"model.latent.open_steps is {latent.open_steps}, not from 1 to model.latent.steps "
            f"{latent.steps}",
        ),
        (
            latent.guidance == 1 or config.losses.words_dropped > 0,
            f"model.latent.guidance {latent.guidance} needs a network that has learned to draw without "
            "words: losses.words_dropped is 0",
        ),
        (
            len(config.joint_shares) > 0 and all(0 <= share <= 1 for share in config.joint_shares),
            f"joint_shares is {list(config.joint_shares)}, not some numbers from 0 to 1",
        ),
        (
            not (discriminator.sees == "features" and config.losses.gradient_penalty > 0),
            "model.discriminator.sees 'features' contradicts losses.gradient_penalty > 0: the penalty would "
            "be of the pretrained network, which does not learn",
        ),
        (
            not (discriminator.norm == "batch" and config.losses.gradient_penalty > 0),
            "model.discriminator.norm 'batch' contradicts losses.gradient_penalty > 0: the penalty is "
            "defined per picture, batch norm mixes pictures",
        ),
    ]


Config = TypeVar("Config")


def config_from_dict(kind: type[Config], values: Any, where: str = "") -> Config:
    """A dataclass from parsed JSON; raises UsageError naming the field and the nearest valid name."""
    if not isinstance(values, dict):
        raise UsageError(f"config {where or 'root'}: expected an object, found {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"config: unknown field {where + name!r}",
                f"did you mean {where + near[0]!r}?" if near else f"known here: {', '.join(known)}",
            )
    fields = {name: _value(hints[name], value, where + name) for name, value in values.items()}
    missing = [
        f.name
        for f in dataclasses.fields(kind)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and f.name not in fields
    ]
    if missing:
        raise UsageError(f"config: missing field {where + missing[0]!r}", "add it")
    return kind(**fields)


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return config_from_dict(kind, value, where + ".")
    if isinstance(kind, types.GenericAlias) and kind.__origin__ is tuple:
        if isinstance(value, list) and all(type(v) is kind.__args__[0] for v in value):
            return tuple(value)
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    raise UsageError(f"config: {where!r} is {value!r}, expected {getattr(kind, '__name__', kind)}")


def load_config(name_or_path: str) -> TrainConfig:
    """A shipped config by its name, or a JSON file by its path."""
    path = Path(name_or_path)
    if path.suffix != ".json":
        path = CONFIG_FOLDER / f"{name_or_path}.json"
    if not path.is_file():
        shipped = sorted(p.stem for p in CONFIG_FOLDER.glob("*.json"))
        near = difflib.get_close_matches(name_or_path, shipped, n=1)
        raise UsageError(
            f"no config {name_or_path!r}",
            f"did you mean {near[0]!r}?" if near else f"shipped: {', '.join(shipped)}; or a .json file",
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config {path} is not JSON: {error}") from error
    return config_from_dict(TrainConfig, values)


def config_to_dict(config: Any) -> dict[str, Any]:
    """What `config_from_dict` reads back."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return values
