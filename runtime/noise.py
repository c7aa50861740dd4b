"""Noise from a seed: the same bits on every machine and in every language.

The recipe, `philox4x32-10-as241` (written out in C in docs/reference/noise.md):

1. Random words. Block b of image i under the 64-bit seed s is Philox4x32 with 10 rounds [1] of the counter
   (b mod 2³², b div 2³², i, t · 2²⁰ + r) and the key (s mod 2³², s div 2³²). It gives four 32-bit words x.
   t is the number of the noise tensor among those of the model, r the step of the loop; both begin with 0.
2. Uniforms. u = (x + 0.5) · 2⁻³², which a double holds exactly; never 0 or 1.
3. Normals. z = Φ⁻¹(u) by Wichura's AS 241, PPND16 [2], in IEEE doubles, rounded to nearest, with no operation
   but + − × ÷ √, in the order written below, and no multiply and add fused into one: each of these is exactly
   rounded everywhere, while the logarithms of two C libraries differ in their last bits. The logarithm that
   the tails need is therefore written out too.
4. z is rounded to the nearest float32. Value j of an image is word j mod 4 of block j div 4.

[1] Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
[2] Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Appl. Statist. 37, 1988.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from textual_vision.runtime.errors import UsageError

Float64: TypeAlias = npt.NDArray[np.float64]
Words: TypeAlias = npt.NDArray[np.uint64]

RECIPE = "philox4x32-10-as241"
SEED_LIMIT = 1 << 64
COUNT_LIMIT = 1 << 32
STEP_LIMIT = 1 << 20  # steps of a loop, in the counter's last word; what is above numbers the tensors
TENSOR_LIMIT = 1 << 12
LAWS = ("normal", "truncated_normal", "uniform", "gumbel")

ROUNDS = 10
WORD_MASK = np.uint64(0xFFFFFFFF)
WORD_BITS = np.uint64(32)
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

CENTER_LIMIT = 0.425
CENTER_SQUARE = 0.180625
TAIL_SHIFT = 1.6
# Highest power first.
CENTER_NUMERATOR = (
    2509.0809287301226727,
    33430.575583588128105,
    67265.770927008700853,
    45921.953931549871457,
    13731.693765509461125,
    1971.5909503065514427,
    133.14166789178437745,
    3.387132872796366608,
)
CENTER_DENOMINATOR = (
    5226.495278852854561,
    28729.085735721942674,
    39307.89580009271061,
    21213.794301586595867,
    5394.1960214247511077,
    687.1870074920579083,
    42.313330701600911252,
    1.0,
)
TAIL_NUMERATOR = (
    7.7454501427834140764e-4,
    0.0227238449892691845833,
    0.24178072517745061177,
    1.27045825245236838258,
    3.64784832476320460504,
    5.7694972214606914055,
    4.6303378461565452959,
    1.42343711074968357734,
)
TAIL_DENOMINATOR = (
    1.05075007164441684324e-9,
    5.475938084995344946e-4,
    0.0151986665636164571966,
    0.14810397642748007459,
    0.68976733498510000455,
    1.6763848301838038494,
    2.05319162663775882187,
    1.0,
)
SQRT_HALF = 0.7071067811865476
LN_2 = 0.6931471805599453
LOG_COEFFICIENTS = (*(1.0 / odd for odd in range(21, 1, -2)), 1.0)  # 1/21, 1/19, … 1/3, 1


def noise_from_seed(seed: int, count: int, dim: int, stream: int = 0) -> npt.NDArray[np.float32]:
    """Standard normals, float32 (count, dim): row i is image i of `seed`, whatever `count` is.

    `stream` (32 bits) separates the tensors and steps of one image; see `stream_of`. Raises UsageError when
    the seed is not in 0 … 2⁶⁴−1, or count or dim is negative or too large.
    """
    return normals_from_words(words_from_seed(seed, count, dim, stream))


def words_from_seed(seed: int, count: int, dim: int, stream: int = 0) -> Words:
    """Random 32-bit words, uint64 (count, dim); arguments and errors as of `noise_from_seed`."""
    seed = operator.index(seed)
    if not 0 <= seed < SEED_LIMIT:
        raise UsageError(f"seed {seed} is not between 0 and {SEED_LIMIT - 1}", "choose another --seed")
    if not 0 <= count <= COUNT_LIMIT or dim < 0:
        raise UsageError(f"no noise of {count} rows of {dim} values", "ask for fewer pictures")
    blocks = -(-dim // 4)
    block = np.arange(blocks, dtype=np.uint64)[None, :]
    image = np.arange(count, dtype=np.uint64)[:, None]
    counter = [block & WORD_MASK, block >> WORD_BITS, image, np.full((1, 1), stream, np.uint64)]
    words = philox(np.broadcast_arrays(*counter), (seed & 0xFFFFFFFF, seed >> 32))  # (count, blocks, 4)
    return words.reshape(count, blocks * 4)[:, :dim]


def stream_of(tensor: int, step: int) -> int:
    """The counter's last word for the noise tensor of this number at this step of a loop (0 outside)."""
    return tensor * STEP_LIMIT + step


def values_from_words(words: Words, law: str, *, tail: float | None = None) -> npt.NDArray[np.float32]:
    """Float32 of the words' shape by one of LAWS; `tail` only for `truncated_normal`.

    - `normal`: Φ⁻¹(u).
    - `truncated_normal`: Φ⁻¹(t + u (1 − 2 t)) with t = `tail`, the probability below the lower bound.
    - `uniform`: (⌊x / 2⁹⌋ + 0.5) · 2⁻²³, which float32 holds exactly; never 0 or 1.
    - `gumbel`: −ln(−ln u).

    u = (x + 0.5) · 2⁻³² as in the recipe; ln is the recipe's own series.
    """
    if law == "normal":
        return normals_from_words(words)
    if law == "uniform":
        kept = (words >> np.uint64(9)).astype(np.float64)
        uniforms: npt.NDArray[np.float32] = ((kept + 0.5) * 2.0**-23).astype(np.float32)
        return uniforms
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-32
    if law == "truncated_normal" and tail is not None:
        return _normals(tail + uniform * (1.0 - 2.0 * tail))
    if law == "gumbel":
        return (-_log(-_log(uniform))).astype(np.float32)
    raise UsageError(f"no noise follows the law {law!r}", f"choose one of {', '.join(LAWS)}")


def philox(counter: Sequence[Words], key: tuple[int, int]) -> Words:
    """Philox4x32-10: four arrays of counter words (…) and two key words to random words (…, 4).

    All words are 32-bit numbers held in uint64.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> WORD_BITS) ^ c1 ^ np.uint64(k0),
            second & WORD_MASK,
            (first >> WORD_BITS) ^ c3 ^ np.uint64(k1),
            first & WORD_MASK,
        )
        k0, k1 = (k0 + KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def normals_from_words(words: Words) -> npt.NDArray[np.float32]:
    """Each 32-bit word (held in uint64, any shape) to its standard normal, float32 of the same shape."""
    return _normals((words.astype(np.float64) + 0.5) * 2.0**-32)


def _normals(uniform: Float64) -> npt.NDArray[np.float32]:
    from_half = uniform - 0.5
    in_center = np.abs(from_half) <= CENTER_LIMIT
    normal = np.empty_like(uniform)
    normal[in_center] = _center(from_half[in_center])
    in_tail = ~in_center
    below = from_half[in_tail] < 0.0
    probability = np.where(below, uniform[in_tail], 1.0 - uniform[in_tail])
    size = _tail(probability)
    normal[in_tail] = np.where(below, -size, size)
    return normal.astype(np.float32)


def _center(from_half: Float64) -> Float64:
    r = CENTER_SQUARE - from_half * from_half
    return (_polynomial(CENTER_NUMERATOR, r) * from_half) / _polynomial(CENTER_DENOMINATOR, r)


def _tail(probability: Float64) -> Float64:
    """The normal's size for a tail's probability; PPND16's farthest piece begins below 2⁻³³: not needed."""
    r = np.sqrt(-_log(probability)) - TAIL_SHIFT
    return _polynomial(TAIL_NUMERATOR, r) / _polynomial(TAIL_DENOMINATOR, r)


def _log(x: Float64) -> Float64:
    """ln x = e·ln 2 + 2·artanh s, with x = m·2ᵉ, √½ <= m < √2, s = (m − 1) / (m + 1), as a series in s²."""
    mantissa, exponent = np.frexp(x)  # exact: mantissa in [½, 1)
    low = mantissa < SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    power = np.where(low, exponent - 1, exponent).astype(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return power * LN_2 + (s * 2.0) * _polynomial(LOG_COEFFICIENTS, s * s)


def _polynomial(coefficients: Sequence[float], x: Float64) -> Float64:
    """Horner's rule, each product rounded before the sum."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total
