"""Prompts to tokens: what is read, what is cut, what is unknown, and what is refused."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textual_vision.runtime.errors import IntegrityError, PromptWarning, UsageError
from textual_vision.runtime.manifest import manifest_from_bytes
from textual_vision.runtime.text.tokenizer import Tokenizer

CLS, SEP, UNKNOWN = 2, 3, 1


@pytest.fixture(scope="session")
def spec(tiny_files):
    return manifest_from_bytes(tiny_files["manifest.json"]).text


@pytest.fixture(scope="session")
def tokenizer(tiny_files, spec):
    return Tokenizer(tiny_files["tokenizer.json"], spec)


def test_prompts_are_padded_to_the_longest_of_the_batch(tokenizer):
    tokens = tokenizer.encode(["dog", "a dog wearing sunglasses"])
    assert tokens.ids.tolist() == [[CLS, 4, SEP, 0, 0, 0], [CLS, 12, 4, 6, 7, SEP]]
    assert tokens.mask.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert tokens.ids.dtype == tokens.mask.dtype == np.int64


@pytest.mark.parametrize("prompt", ["", "   ", "\t\n", "\u200b", "\x00"])
def test_a_prompt_without_text_is_refused_with_an_example(tokenizer, prompt):
    with pytest.raises(UsageError, match="is empty") as caught:
        tokenizer.encode([prompt])
    assert "for example" in caught.value.hint


def test_a_long_prompt_is_cut_and_the_warning_counts_the_words(tokenizer):
    prompt = "dog " * 2500
    assert len(prompt) == 10_000
    with pytest.warns(PromptWarning, match="the last 2490 words were cut"):
        tokens = tokenizer.encode([prompt])
    assert tokens.ids.tolist() == [[CLS, *[4] * 10, SEP]]
    assert tokens.notes[0].words_cut == 2490


def test_a_long_prompt_without_spaces_is_read_too(tokenizer):
    with pytest.warns(PromptWarning, match="not in the vocabulary"):
        tokens = tokenizer.encode(["x" * 10_000])
    assert tokens.ids.tolist() == [[CLS, UNKNOWN, SEP]]


def test_unknown_words_are_named_once_each(tokenizer):
    with pytest.warns(PromptWarning, match="not in the vocabulary: '𒐫', '森', '林'$"):
        tokens = tokenizer.encode(["𒐫 dog 森林 𒐫"])
    assert tokens.notes[0].unknown == ("𒐫", "森", "林")
    assert not tokens.notes[0].nothing_known


def test_a_prompt_of_unknown_words_alone_says_what_to_expect(tokenizer):
    with pytest.warns(PromptWarning, match="nothing in it is known"):
        assert tokenizer.encode(["xyzzy"]).notes[0].nothing_known


def test_special_tokens_in_a_prompt_are_text(tokenizer):
    with pytest.warns(PromptWarning):
        ids = tokenizer.encode(["dog [PAD] [SEP]"]).ids[0].tolist()
    assert ids.count(SEP) == 1
    assert 0 not in ids


def test_an_ordinary_prompt_gives_no_warning(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = tokenizer.encode(["a dog, a cat."])
    assert tokens.mask.sum() == 8  # six pieces between the two that begin and end a prompt


def test_text_that_is_not_unicode_is_refused(tokenizer):
    with pytest.raises(UsageError, match="not valid text"):
        tokenizer.encode(["dog \udcff"])


def test_a_file_that_is_no_tokenizer_is_an_integrity_error(spec):
    with pytest.raises(IntegrityError, match=r"tokenizer\.json"):
        Tokenizer(b'{"version": "9"}', spec)


def test_a_tokenizer_without_an_unknown_token_is_refused_before_a_prompt_needs_it(tiny_files, spec):
    data = tiny_files["tokenizer.json"].replace(b'"unk_token":"[UNK]"', b'"unk_token":"[NIX]"')
    assert data != tiny_files["tokenizer.json"]
    with pytest.raises(IntegrityError, match="Missing"):
        Tokenizer(data, spec)


def test_an_unknown_id_that_the_tokenizer_lacks_is_refused(tiny_files, spec):
    with pytest.raises(IntegrityError, match="no token"):
        Tokenizer(tiny_files["tokenizer.json"], dataclasses.replace(spec, unknown_id=999))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_as_empty(tokenizer, text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        try:
            tokens = tokenizer.encode([text])
        except UsageError:
            return
    assert tokens.ids.shape == tokens.mask.shape
    assert 3 <= tokens.ids.shape[1] <= 12
