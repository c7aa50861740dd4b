"""The JavaScript client gives Python's ids, noise and pictures in Node."""

import json
import os
import random
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from textual_vision.runtime import PromptWarning, TextToImage, UsageError
from textual_vision.runtime.manifest import TextSpec
from textual_vision.runtime.noise import LAWS, stream_of, values_from_words, words_from_seed
from textual_vision.runtime.text.prompt_text import NAMES
from textual_vision.runtime.text.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
CLIENT = Path(__file__).parent / "client.mjs"
PACKAGE = ROOT / "runtime" / "js"
SHIPPED = ROOT / "training" / "checkpoints" / "emoji" / "tokenizer.json"
SPEC = TextSpec(tokenizer="tokenizer.json", max_tokens=32, pad_id=0, unknown_id=1)
ORT_NODE = "onnxruntime-node@1.23"
PROMPTS = [
    "dog wearing sunglasses",
    "[PAD]",
    "dog [PAD] [SEP] cat",
    "[pad]dog[UNK] ##s",
    "",
    "   ",
    "\x00",
    "🐶dog🐱cat 👍🏽river ❤️ 1️⃣ 🇩🇪 👩🏿‍🚀👨‍👩‍👧‍👦",
    "ｄｏｇ ﬁre ½ ㎏ Ⅷ",
    "İstanbul ß ẞ Å Ω K",
    "café cafe\u0301 e\u0301\u0301 \u0301dog",
    "각 한국어 힣 森林 dog森林cat 豈",
    "don't stop--now... (really?) $5 ^ ` ~ a|b «cat» „dog“ – …",
    "dog\u0085cat\u000bdog\u000ccat\u2028dog \x1c dog",
    "x" * 100,
    "x" * 101,
    "dog " * 2500,
    "Ñandú ÀÉÎÕÜ ЁЖИК ΑΒΓ",
]


@pytest.fixture(scope="session")
def ask():
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node here")

    def ask(**question):
        done = subprocess.run(
            [node, str(CLIENT)], input=json.dumps(question), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return ask


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory):
    """A folder with onnxruntime-node: that of PROMPTSPRITE_NODE_MODULES, or installed now."""
    if found := os.environ.get("PROMPTSPRITE_NODE_MODULES"):
        return found
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm here")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text("{}")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", ORT_NODE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        pytest.skip(f"onnxruntime-node cannot be installed: {done.stderr[-200:]}")
    return str(folder)


def ids_by_python(tokenizer, prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        try:
            return tokenizer.encode([prompt]).ids[0].tolist()
        except UsageError as error:
            return error.exit_code


def test_prompts_are_read_as_in_python(ask):
    vocabulary = list(json.loads(SHIPPED.read_text("utf-8"))["model"]["vocab"])
    rng = random.Random(0)
    prompts = PROMPTS + [" ".join(rng.sample(vocabulary, rng.choice((2, 5, 12, 40)))) for _ in range(500)]
    text = {"max_tokens": 32, "pad_id": 0, "unknown_id": 1}
    found = ask(kind="tokens", file=json.loads(SHIPPED.read_text("utf-8")), text=text, prompts=prompts)[
        "answer"
    ]
    tokenizer = Tokenizer(SHIPPED.read_bytes(), SPEC)
    for prompt, ids in zip(prompts, found, strict=True):
        assert ids == ids_by_python(tokenizer, prompt), ascii(prompt)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_noise_has_the_bits_of_python(ask, law, seed):
    tail = 0.0227501319481792 if law == "truncated_normal" else None
    about = {"law": law, "tail": tail, "tensor": 3, "step": 17, "scale": 1.5}
    bits = ask(kind="noise", seed=str(seed), count=403, law=about)["answer"]
    words = words_from_seed(seed, 1, 403, stream_of(3, 17))
    expected = values_from_words(words, law, tail=tail) * np.float32(1.5)
    assert bits == expected.ravel().view(np.uint32).tolist()


def test_numbers_of_tables_are_rounded_to_half_as_numpy_rounds_them(ask):
    rng = np.random.default_rng(0)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(float)
    middles = (halves[:-1] + halves[1:]) / 2
    numbers = [*halves, *middles, *-middles, 65519.99, 65520.0, 1e300, 5e-324, -0.0]
    numbers += [*np.nextafter(middles[::37], 0), *np.nextafter(middles[::37], 1e9)]
    numbers += [*(rng.standard_normal(500) * 10.0 ** rng.uniform(-9, 5, 500))]
    with np.errstate(over="ignore"):
        expected = np.array(numbers).astype(np.float16).view(np.uint16)
    assert ask(kind="halves", numbers=numbers)["answer"] == expected.tolist()


def test_the_package_has_the_names_of_emoji_that_python_has():
    assert (PACKAGE / "src" / "emoji_names.txt").read_bytes() == NAMES.read_bytes()


@pytest.mark.slow
def test_pictures_and_codes_are_those_of_python(ask, node_modules, tiny_bundle):
    jobs = [("dog wearing sunglasses", 7), ("a green cat", 2**64 - 1), ("[PAD] dog", 0)]
    question = {"modules": node_modules, "bundle": str(tiny_bundle)}
    drawn = ask(kind="draw", jobs=[(prompt, str(seed)) for prompt, seed in jobs], **question)
    assert "answer" in drawn, drawn
    model = TextToImage.load(tiny_bundle, backend="onnxruntime")
    for (prompt, seed), picture in zip(jobs, drawn["answer"], strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PromptWarning)
            expected = model.generate([prompt], [seed])
        assert picture["codes"] == expected.codes.ravel().tolist()
        assert np.abs(np.array(picture["pixels"]) - expected.images.ravel().astype(int)).max() <= 1
    (tiny_bundle / "onnx/fp32/latent.onnx").write_bytes(b"x")
    assert ask(kind="draw", jobs=[("dog", "1")], **question)["error"] == 7


@pytest.mark.slow
def test_loops_give_the_pictures_of_python(ask, node_modules, loop_bundle, edit_manifest):
    jobs = [("dog wearing sunglasses", 7), ("a green cat", 2**64 - 1)]
    question = {"modules": node_modules, "bundle": str(loop_bundle)}
    drawn = ask(kind="draw", jobs=[(prompt, str(seed)) for prompt, seed in jobs], **question)
    assert "answer" in drawn, drawn
    model = TextToImage.load(loop_bundle, backend="onnxruntime")
    for (prompt, seed), picture in zip(jobs, drawn["answer"], strict=True):
        expected = model.generate([prompt], [seed]).images.ravel().astype(int)
        assert np.abs(np.array(picture["pixels"]) - expected).max() <= 1
        assert len(np.unique(expected)) > 20
    wrong = [
        lambda manifest: manifest["noise"][0].update(per_step=True),
        lambda manifest: manifest["loops"][1].update(stages=["guess", "painter"]),
        lambda manifest: manifest["loops"][1]["tables"].update(time=[1]),
    ]
    for change in wrong:
        edit_manifest(change)
        assert ask(kind="draw", jobs=[("dog", "1")], **question)["error"] == 7
