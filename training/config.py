"""The configuration of a model and its training: every dimension and every switch.

The defaults are the recipe of the shipped emoji model. `config_file` reads and writes configs as JSON,
`config_rules` holds the conditions between fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

SCHEMA_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text encoder: the first layers of MiniLM and a product quantizer."""

    vocabulary: int = 8192  # word pieces kept of MiniLM's 30,522
    max_tokens: int = 32  # of a prompt; the rest is cut off
    hidden: int = 384  # width of a token state, as in MiniLM
    layers: int = 3  # states of layer 3 are still word-like; deeper layers lose the single word
    heads: int = 12  # of attention
    intermediate: int = 1536  # width of the feed-forward layers
    groups: int = 8  # sub-spaces of a token state, each with its own codebook
    codebook_size: int = 1024  # codes of a sub-space
    embed_dim: int = 256  # width of the quantized token states that the other stages receive


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """The image codebook and the encoder that learns it; the encoder is not exported."""

    codebook_size: int = 512  # rows
    codebook_dim: int = 32  # numbers in a row
    channels: tuple[int, ...] = (48, 96)  # of the image encoder, one stride-2 convolution each
    decay: float = 0.99  # of the exponential moving average of the rows
    threshold_ema_dead_code: float = 0.02  # a row with a smaller share of the mean count is replaced


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The latent network: text and noise to a grid of codes, chosen on a lattice that becomes denser."""

    grid: int = 16  # rows and columns of image codes
    patch: int = 2  # rows and columns of codes in one position of the network
    steps: int = 4  # decoding steps; 1 chooses all codes at once
    split_doublings: int = 0  # the last doublings of the lattice that take two steps each
    embed_dim: int = 256  # width of the transformer blocks
    blocks: int = 4  # transformer blocks
    heads: int = 4  # of attention
    head_width: int = 384  # hidden width of the head that chooses the codes of a patch


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """The index of training pictures whose codes the latent network receives (Blattmann et al. 2022)."""

    entries: int | None = None  # pictures in the index; null: all of the corpus; 0: no retrieval
    dim: int = 64  # of a key
    count: int = 8  # pictures retrieved for a prompt


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The generator: codes to pixels, with a transposed convolution between two entries of `channels`."""

    channels: tuple[int, ...] = (128, 64, 32)  # at each resolution, the size doubling from one to the next
    residual_blocks: int = 1  # at the resolution of the codes
    condition: int = 192  # width of the vector that conditions every layer


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The discriminator of pictures with their captions; training only.

    `input` is "features" (of a pretrained EfficientNet-Lite0; one entry in `channels`, the width of the
    heads) or "pixels" (one stride-2 convolution for each entry in `channels`, down to 4 x 4).
    """

    input: str = "features"  # features | pixels
    channels: tuple[int, ...] = (96,)  # features: the width of the heads; pixels: one entry a convolution


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture: every field that decides the names and shapes of weights."""

    image_size: int = 64  # pixels, square
    noise: int = 32  # standard normals for a picture
    text: TextConfig = field(default_factory=TextConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """The way codes are sampled; a change needs no training, only a new export."""

    guidance_scale: float = 3.0  # classifier-free guidance (Ho & Salimans 2022); 1 is off
    temperature: float = 0.05  # of the noise added to raw latents; 0 takes the likeliest codes
    stochastic_steps: int = 2  # the first steps, which use guidance and noise
    query_noise: float = 0.25  # standard deviation of the noise added to the unit-length retrieval query
    copy_strength: float = 5.0  # multiplier of the copy head where the nearest caption names one thing
    copy_strength_composition: float = 0.8  # the same where it names several; 1 is as trained
    nearest_bonus: float = 3.0  # nats added to the copy score of the nearest picture of one thing

    def is_guided(self, step: int, steps: int) -> bool:
        """Whether guidance is applied in `step` of `steps`.

        It is off in the first of several steps: that step chooses a corner cell, mostly background, and
        guidance there causes specks.
        """
        return self.guidance_scale != 1 and min(1, steps - 1) <= step < self.stochastic_steps


@dataclass(frozen=True, kw_only=True)
class TextPhaseConfig:
    """k-means of the text codes."""

    kmeans_iterations: int = 15  # for each sub-space
    token_states: int = 100_000  # token states of captions that the centroids are fitted to, at most


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """The schedule of one phase: linear warm-up, then a cosine."""

    steps: int  # each with one batch
    batch_size: int  # pictures in a step, over all processes
    learning_rate: float  # after the warm-up
    warmup_steps: int = 50  # in which the learning rate rises linearly


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms; zero switches a term and its cost off."""

    l1: float = 1.0  # of pixels
    l2: float = 1.0  # of pixels
    perceptual: float = 0.3  # insensitive to brightness, hence never without l1
    reconstruction: float = 3.0  # joint phase: weight of pictures generated from all of their own codes
    commitment: float = 0.25  # of the distance of latents to their codebook rows
    code_cross_entropy: float = 1.0  # of the prediction of codes
    logit_scale: float = 4.0  # factor of the dot product of a raw latent and a codebook row
    label_smoothing: float = 0.2  # share of the target that similar codes receive
    label_smoothing_scale: float = 50.0  # factor of the cosine of two rows, before the softmax
    token_corruption: float = 0.1  # share of the known codes that are replaced, to learn from mistakes
    text_dropout: float = 0.1  # share of the captions that are dropped, for guidance
    kl: float = 0.002  # limits the information of the noise about the picture; higher: seeds differ less
    fine_cross_entropy: float = 0.1  # joint phase: weight of the last steps, which also learn from pixels
    adversarial: float = 1.0  # joint phase: ramped up over its first quarter
    mismatched_caption: float = 1.0  # weight of real pictures with another caption; 0 as in the paper
    diff_augment: bool = True  # shift and tint the pictures of the discriminator (Zhao et al. 2020)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A model, its corpus and its schedule."""

    name: str  # of the model
    schema_version: int = SCHEMA_VERSION
    seed: int = 0  # of weights, batches and noise
    corpus: str = "emoji"  # emoji | coco | folder | shards
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    text_phase: TextPhaseConfig = field(default_factory=TextPhaseConfig)
    codebook_phase: PhaseConfig = PhaseConfig(steps=2000, batch_size=64, learning_rate=2e-3)
    latent_phase: PhaseConfig = PhaseConfig(
        steps=5000, batch_size=192, learning_rate=1.2e-3, warmup_steps=100
    )
    joint_phase: PhaseConfig = PhaseConfig(steps=700, batch_size=48, learning_rate=3e-4)
    losses: LossConfig = field(default_factory=LossConfig)
    encoder_update_interval: int = 4  # joint phase: steps between two of the image encoder; 0: it is frozen
    ema_decay: float = 0.998  # of the average of the weights that is saved
    # Shares of the joint phase's change to the generator. The share with the lowest KID on the validation
    # pictures is saved, for training against a discriminator can wash out colors.
    interpolation_candidates: tuple[float, ...] = (0.4, 1.0)
    style_in_caption: float = 0.6  # share of captions that name the art style
    checkpoint_minutes: float = 4.0  # between two saves of the run
    precision: str = "auto"  # auto | float32 | bfloat16; auto: bfloat16 where the device has units for it


def with_retrieval_entries(config: TrainConfig, pictures: int) -> TrainConfig:
    """`config` with `pictures` retrieval entries where it leaves their number to the corpus."""
    if config.model.retrieval.entries is not None:
        return config
    retrieval = replace(config.model.retrieval, entries=pictures)
    return replace(config, model=replace(config.model, retrieval=retrieval))
