"""Noise: the recipe gives the published words, the same bits as C, and normals that are normal."""

import math
import re
import shutil
import subprocess
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.runtime.errors import UsageError
from textual_vision.runtime.noise import noise_from_seed, normals_from_words, philox

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "noise.md"
COMPILER = shutil.which("cc")
KNOWN_WORDS = [  # counter, key, result: the known answers published with Random123
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def hexadecimal(values: np.ndarray) -> str:
    return " ".join(f"{int(value):08x}" for value in values)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_WORDS)
def test_philox_gives_the_published_words(counter, key, expected):
    words = philox([np.array(word, np.uint64) for word in counter], key)
    assert hexadecimal(words) == expected


def test_the_vectors_on_the_page_hold():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `([0-9a-f ]+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == 4
    for seed, image, expected in rows:
        noise = noise_from_seed(int(seed), int(image) + 1, 4)[int(image)]
        assert hexadecimal(noise.view(np.uint32)) == expected


@pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc) on this machine")
def test_the_c_code_on_the_page_gives_the_same_bits(tmp_path):
    (code,) = re.findall(r"```c\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "noise.c").write_text(code)
    build = [COMPILER, "-O2", "-Wall", "-Werror", "-ffp-contract=off", "noise.c", "-o", "noise", "-lm"]
    subprocess.run(build, cwd=tmp_path, check=True)
    for seed, count, dim in [(0, 2, 5), (7, 1, 100_001), (2**64 - 1, 300, 64)]:
        command = [tmp_path / "noise", str(seed), str(count), str(dim)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        bits = np.array([int(line, 16) for line in printed.split()], np.uint32)
        assert np.array_equal(bits, noise_from_seed(seed, count, dim).view(np.uint32).ravel())


@given(st.integers(0, 2**64 - 1), st.integers(1, 5), st.integers(1, 9), st.integers(0, 5), st.integers(0, 9))
def test_a_value_depends_on_its_seed_and_place_alone(seed, count, dim, more_images, more_values):
    small = noise_from_seed(seed, count, dim)
    large = noise_from_seed(seed, count + more_images, dim + more_values)
    assert small.dtype == np.float32
    assert np.array_equal(small, large[:count, :dim])


def test_neighboring_seeds_and_images_are_unrelated():
    noise = np.concatenate([noise_from_seed(7, 2, 1 << 16), noise_from_seed(8, 1, 1 << 16)]).astype(
        np.float64
    )
    correlation = np.corrcoef(noise) - np.eye(3)
    assert np.abs(correlation).max() < 5 / 256  # five standard errors


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_of_more_than_64_bits_is_refused(seed):
    with pytest.raises(UsageError, match="seed"):
        noise_from_seed(seed, 1, 4)


def test_a_word_becomes_the_nearest_float_to_its_normal_even_in_the_tails():
    powers = (2.0 ** np.linspace(0, 31.999, 4001)).astype(np.uint64)
    words = np.concatenate([np.arange(500, dtype=np.uint64), powers, np.uint64(2**32 - 1) - powers])
    exact = [NormalDist().inv_cdf((int(word) + 0.5) / 2**32) for word in words]
    assert np.array_equal(normals_from_words(words), np.array(exact).astype(np.float32))


def test_the_tails_have_the_probability_that_they_should():
    words = np.arange(1000, dtype=np.uint64)
    normals = normals_from_words(words).astype(np.float64)
    below = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in normals])
    assert np.allclose(below, (words + 0.5) / 2**32, rtol=3e-6)  # z ≈ 6 rounded to float32 moves Φ by 2e-6


def test_normals_mirror_exactly():
    words = np.array([0, 1, 99, 2**20, 2**31 - 1], np.uint64)
    assert np.array_equal(normals_from_words(words), -normals_from_words(np.uint64(2**32 - 1) - words))


def test_moments_and_distribution_are_normal():
    normals = np.sort(noise_from_seed(123, 16, 1 << 14).ravel().astype(np.float64))
    size = normals.size
    moments = [np.mean(normals**power) for power in (1, 2, 3, 4)]
    errors = [math.sqrt(variance / size) for variance in (1, 2, 15, 96)]
    for moment, expected, error in zip(moments, (0, 1, 0, 3), errors, strict=True):
        assert abs(moment - expected) < 4 * error
    every = slice(None, None, 64)
    distance = [
        NormalDist().cdf(z) - rank / size for rank, z in zip(range(0, size, 64), normals[every], strict=True)
    ]
    assert max(map(abs, distance)) * math.sqrt(size) < 1.6  # significant at 1 %
