"""TextToImage: from prompt and seed to the same picture every time, by every backend."""

import numpy as np
import pytest

from textual_vision.runtime import TextToImage
from textual_vision.runtime.errors import (
    BackendMissingError,
    BundleWarning,
    IntegrityError,
    PromptWarning,
    UsageError,
)
from textual_vision.runtime.text.tokenizer import Tokenizer

BACKENDS = ["onnxruntime", "openvino"]


@pytest.fixture
def model(tiny_bundle):
    return TextToImage.load(tiny_bundle, backend="onnxruntime", threads=1)


def test_a_call_gives_an_rgb_picture(model):
    image = model("a dog", seed=7)
    assert image.dtype == np.uint8
    assert image.shape == (8, 8, 3)


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(model, tiny_bundle):
    again = TextToImage.load(tiny_bundle, backend="onnxruntime")
    assert np.array_equal(model("a dog", seed=7), again("a dog", seed=7))
    assert not np.array_equal(model("a dog", seed=7), model("a dog", seed=8))


def test_another_prompt_gives_another_picture(model):
    assert not np.array_equal(model("a dog"), model("green forest"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_same_codes_and_pictures(model, tiny_bundle, backend):
    other = TextToImage.load(tiny_bundle, backend=backend)
    prompts = ["dog", "green forest with river", "a cat wearing sunglasses"]
    expected, found = model.generate(prompts, [1, 2, 3]), other.generate(prompts, [1, 2, 3])
    assert np.array_equal(expected.codes, found.codes)
    assert np.abs(expected.images.astype(int) - found.images).max() <= 1


def test_text_is_encoded_once_and_drawn_with_many_seeds(model):
    text = model.encode_text(["green forest"])
    seeds = [3, 2**64 - 1, 0, 5, 6]  # more than the batch profile's largest batch
    drawn = model.generate(text, seeds)
    assert drawn.images.shape == (5, 8, 8, 3)
    assert drawn.codes.shape == (5, 4, 4)
    assert drawn.codes.dtype == np.int64
    for image, seed in zip(drawn.images, seeds, strict=True):
        assert np.array_equal(image, model("green forest", seed=seed))


def test_many_prompts_can_share_one_seed(model):
    drawn = model.generate(["dog", "green forest with river"], [4])
    assert np.array_equal(drawn.images[1], model("green forest with river", seed=4))
    assert np.array_equal(drawn.images[0], model("dog", seed=4))  # padding changes nothing


@pytest.mark.parametrize(("prompts", "seeds"), [(["dog", "cat"], [1, 2, 3]), (["dog"], []), ([], [1])])
def test_numbers_of_prompts_and_seeds_that_do_not_fit_are_refused(model, prompts, seeds):
    with pytest.raises(UsageError):
        model.generate(prompts, seeds)


def test_a_bare_string_is_not_taken_for_a_list_of_letters(model):
    with pytest.raises(UsageError, match="one string"):
        model.generate("dog", [1])


def test_an_unknown_precision_is_refused_with_the_list(tiny_bundle):
    with pytest.raises(UsageError, match="fp23") as caught:
        TextToImage.load(tiny_bundle, precision="fp23")
    assert "did you mean 'fp32'" in caught.value.hint


def test_an_unknown_backend_is_refused_with_the_nearest_name(tiny_bundle):
    with pytest.raises(UsageError) as caught:
        TextToImage.load(tiny_bundle, backend="openvimo")
    assert "did you mean 'openvino'" in caught.value.hint


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_gpu_provider_that_does_not_work_is_an_error_and_never_the_cpu(tiny_bundle, backend):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has GPU providers")
    with pytest.raises(BackendMissingError) as caught:
        TextToImage.load(tiny_bundle, backend=backend)
    assert "promptsprite[gpu]" in caught.value.hint


def test_an_unknown_noise_recipe_is_refused(edit_manifest):
    root = edit_manifest(lambda manifest: manifest["noise"][0].update(recipe="mt19937"))
    with pytest.raises(IntegrityError, match="mt19937"):
        TextToImage.load(root)


def test_noise_of_another_size_than_the_stages_take_is_refused(edit_manifest):
    bundle = edit_manifest(lambda manifest: manifest["noise"][0].update(shape=[7]))
    with pytest.raises(IntegrityError, match=r"'noise' is \[7\], but 'latent' takes \('batch', 6\)"):
        TextToImage.load(bundle, backend="onnxruntime")


def test_a_stage_that_needs_what_no_stage_gives_is_refused(edit_manifest):
    root = edit_manifest(lambda manifest: manifest["stages"].reverse())
    with pytest.raises(IntegrityError, match="'generator' needs 'codes'"):
        TextToImage.load(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda manifest: manifest.update(warnings=["int8 failed its budget"]), "int8 failed its budget"),
        (lambda manifest: manifest["precisions"]["fp32"].update(verdict="fail"), "failed its comparison"),
        (lambda manifest: manifest["precisions"]["fp32"].update(verdict="unchecked"), "never compared"),
    ],
)
def test_a_bundle_that_is_not_as_good_as_it_should_be_warns(edit_manifest, change, words):
    with pytest.warns(BundleWarning, match=words):
        TextToImage.load(edit_manifest(change))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_the_backend_cannot_load_is_an_integrity_error_and_nothing_is_printed(
    replace_file, tiny_files, backend, capfd
):
    graph = tiny_files["onnx/fp32/latent.onnx"].replace(b"ArgMin", b"ArgMxx")
    root = replace_file("onnx/fp32/latent.onnx", graph)
    with pytest.raises(IntegrityError, match=r"latent\.onnx") as caught:
        TextToImage.load(root, backend=backend)
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_damaged_name_that_the_backend_cannot_even_print_is_an_integrity_error(
    replace_file, tiny_files, backend, capfd
):
    graph = tiny_files["onnx/fp32/latent.onnx"].replace(b"ArgMin", b"Arg\xffin")
    with pytest.raises(IntegrityError, match=r"latent\.onnx"):
        TextToImage.load(replace_file("onnx/fp32/latent.onnx", graph), backend=backend)
    assert capfd.readouterr() == ("", "")  # ONNX Runtime would announce a fallback


@pytest.mark.parametrize("prompt", ["🐶 dog", "森林", "xyzzy"])
def test_unknown_words_still_give_a_picture_and_a_warning(model, prompt):
    with pytest.warns(PromptWarning, match="not in the vocabulary"):
        assert model(prompt).shape == (8, 8, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("stage", "side"), [("generator", "inputs"), ("text_encoder", "outputs")])
def test_a_graph_with_other_names_than_the_manifest_says_is_refused(edit_manifest, backend, stage, side):
    def forget_one(manifest):
        (found,) = [entry for entry in manifest["stages"] if entry["name"] == stage]
        del found[side][-1 if side == "inputs" else 0]

    root = edit_manifest(forget_one)
    with pytest.raises(IntegrityError, match=rf"{stage}\.onnx: {side} .* the manifest says"):
        TextToImage.load(root, backend=backend)


def fix_the_text_length(length, shape="tokens"):
    def change(manifest):
        manifest["text"].update(max_tokens=length, fixed_length=True)
        for stage in manifest["stages"]:
            for tensor in stage["inputs"]:
                tensor["shape"] = [shape if size == "tokens" else size for size in tensor["shape"]]

    return change


@pytest.mark.parametrize("shape", ["tokens", 8])
def test_a_fixed_text_length_is_padded_to_and_draws_the_same(model, edit_manifest, shape):
    fixed = TextToImage.load(edit_manifest(fix_the_text_length(8, shape)), backend="onnxruntime")
    text = fixed.encode_text(["a dog"])
    assert text.batches[0]["input_ids"].shape == (1, 8)
    assert np.array_equal(fixed.generate(text, [7]).images[0], model("a dog", seed=7))


def test_a_prompt_longer_than_the_fixed_text_length_is_cut_with_a_warning(edit_manifest):
    fixed = TextToImage.load(edit_manifest(fix_the_text_length(4)), backend="onnxruntime")
    with pytest.warns(PromptWarning, match="longer than 4 tokens, the last 1 word was cut"):
        cut = fixed("a dog dog", seed=7)
    assert np.array_equal(cut, fixed("a dog", seed=7))


def test_graphs_of_another_text_length_than_the_prompts_have_are_refused(edit_manifest):
    with pytest.raises(IntegrityError, match="takes 16 tokens, the text's length is 8"):
        TextToImage.load(edit_manifest(fix_the_text_length(8, 16)))


def test_one_stage_runs_on_tensors_of_a_users_own(tiny_bundle):
    model = TextToImage.load(tiny_bundle)
    found = model.generate(["a dog"], [3])
    manifest = model.bundle.manifest
    tokens = Tokenizer(model.bundle.read("tokenizer.json"), manifest.text).encode(["a dog"])
    prompt = {"input_ids": tokens.ids, "attention_mask": tokens.mask}
    text = model.run_stage("text_encoder", prompt)["text"]
    given = {"codes": found.codes, "text": text, "attention_mask": tokens.mask}
    assert np.array_equal(model.run_stage("generator", given)["image"], found.images)
    for name, inputs, problem in (
        ("painter", {}, "no stage 'painter'"),
        ("generator", {"noise": found.codes}, "takes attention_mask, codes, text, not noise"),
        ("generator", {**given, "codes": found.codes.astype(np.int32)}, "'codes' is int32"),
        ("generator", {**given, "codes": found.codes + 99}, "has values from"),
        ("generator", {**given, "codes": found.codes.tolist()}, "is a list"),
    ):
        with pytest.raises(UsageError, match=problem):
            model.run_stage(name, inputs)
