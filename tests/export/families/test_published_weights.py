"""Random weights in the layouts of the published code give the pictures that the published code gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from random_weights import random_state

from textual_vision.export.families import attngan, damsm, dcgan, df_gan, vq_gan
from textual_vision.export.families.weights import load_state, read_checkpoint, state_from_checkpoint
from textual_vision.runtime.errors import IntegrityError, UsageError
from textual_vision.runtime.noise import noise_from_seed

DATA = Path(__file__).parents[2] / "data" / "families"
TOLERANCE = 1e-4  # of values in [-1, 1]
HALF_TOLERANCE = 1e-3  # where the expected values are kept as float16


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def expected(family):
    with np.load(DATA / family / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays if arrays[name].dtype.kind in "fi"}


def test_dcgan_gives_the_picture_of_the_original_code():
    state = state_from_checkpoint(read_checkpoint(DATA / "dcgan" / "netG_epoch_24.pth"))
    module = dcgan.dcgan_from_state(state)
    load_state(module, state, "netG")
    arrays = expected("dcgan")
    picture = module.eval()(arrays["noise"][:, :, 0, 0])
    assert module.image_size == 64
    assert (picture - arrays["image"]).abs().max() < TOLERANCE


def test_df_gan_gives_the_picture_of_the_original_code():
    value = read_checkpoint(DATA / "df-gan" / "state_epoch_1220.pth")
    state = state_from_checkpoint(value, inside=("model", "netG"))
    module = df_gan.generator_from_state(state)
    load_state(module, state, "netG")
    arrays = expected("df-gan")
    image = arrays["image"].float()
    picture = module.eval()(arrays["noise"][: len(image)], arrays["sentence"][: len(image)])
    assert module.image_size == 256
    assert (picture - image).abs().max() < HALF_TOLERANCE


def test_the_text_encoder_of_damsm_gives_the_features_of_the_original_code():
    state = state_from_checkpoint(read_checkpoint(DATA / "df-gan" / "text_encoder200.pth"))
    module = damsm.encoder_from_state(state)
    load_state(module, state, "text_encoder")
    arrays = expected("df-gan")
    mask = (torch.arange(arrays["ids"].shape[1]) < arrays["lengths"][:, None]).long()
    words, sentence = module.eval()(arrays["ids"], mask)
    assert (words - arrays["words"]).abs().max() < TOLERANCE
    assert (sentence - arrays["sentence"]).abs().max() < TOLERANCE


def test_the_decoder_of_vq_gan_gives_the_picture_of_the_original_code():
    value = read_checkpoint(DATA / "vq-gan" / "last.ckpt")
    state = vq_gan.decoder_state(state_from_checkpoint(value, inside=("state_dict",)))
    module = vq_gan.vq_gan_from_state(state)
    load_state(module, state, "decoder")
    arrays = expected("vq-gan")
    assert (module.eval()(arrays["codes"]) - arrays["image"]).abs().max() < TOLERANCE


def test_attngan_reads_its_sizes_off_the_97_tensors_of_its_layout():
    sizes = {"width": 4, "word": 12, "condition": 5, "noise_dim": 6, "residual": 2, "stages": 3}
    state = attngan.AttnGanGenerator(**sizes).state_dict()
    module = attngan.generator_from_state(state)
    load_state(module, state, "netG")
    assert len(state) == 97
    assert {name: getattr(module, name) for name in ("noise_dim", "condition", "stages")} == {
        "noise_dim": 6,
        "condition": 5,
        "stages": 3,
    }
    words, mask = torch.randn(2, 12, 5), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    inputs = (torch.randn(2, 12), torch.randn(2, 6), torch.randn(2, 5))
    module.eval()
    together, _ = module(words, inputs[0], mask, *inputs[1:])
    alone, maps = module(words[1:, :, :2], inputs[0][1:], mask[1:, :2], inputs[1][1:], inputs[2][1:])
    assert [picture.shape[-1] for picture in together] == [64, 128, 256]
    assert (together[2][1] - alone[2][0]).abs().max() < TOLERANCE
    assert torch.allclose(maps[0].sum(1), torch.ones(1, 64, 64))


def test_cgan_reads_classes_and_sizes_off_its_state():
    module = dcgan.CganGenerator(classes=7, embedding=7, noise_dim=10, widths=(16, 32, 3 * 8 * 8))
    again = dcgan.cgan_from_state(module.state_dict())
    load_state(again, module.state_dict(), "generator")
    label, noise = torch.tensor([0, 6]), torch.randn(2, 10)
    assert again.image_shape == (3, 8, 8)
    assert torch.equal(again.eval()(label, noise), module.eval()(label, noise))


def test_cgan_gives_the_picture_of_the_common_implementation():
    module = dcgan.CganGenerator(classes=7, embedding=7, noise_dim=10, widths=(128, 256, 512, 1024, 192))
    module.load_state_dict(random_state(module))
    picture = module.eval()(torch.tensor([0, 6]), torch.from_numpy(noise_from_seed(3, 2, 10)))
    assert (picture - expected("cgan")["image"]).abs().max() < TOLERANCE


def test_weights_saved_from_several_gpus_load_as_they_are():
    module = dcgan.DcganGenerator((10, 8, 3))
    state = {f"module.{key}": value for key, value in module.state_dict().items()}
    assert set(state_from_checkpoint({"state_dict": state}, inside=("state_dict",))) == set(
        module.state_dict()
    )


def test_a_missing_key_is_named_with_the_nearest_one():
    module = dcgan.DcganGenerator((10, 8, 3))
    state = module.state_dict()
    state["main.0.weigth"] = state.pop("main.0.weight")
    with pytest.raises(IntegrityError, match=r"lacks 'main.0.weight' \(nearest: 'main.0.weigth'\)"):
        load_state(module, state, "netG")


def test_a_tensor_of_another_shape_is_named_with_both_shapes():
    module = dcgan.DcganGenerator((10, 8, 3))
    with pytest.raises(IntegrityError, match=r"main.0.weight is \(10, 9, 4, 4\), expected \(10, 8, 4, 4\)"):
        load_state(module, {**module.state_dict(), "main.0.weight": torch.zeros(10, 9, 4, 4)}, "netG")


class Harmful:
    """Runs a command when it is unpickled by a reader that trusts the file."""

    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys):
    path = tmp_path / "netG.pth"
    torch.save({"model": Harmful()}, path)
    with pytest.raises(IntegrityError, match="more than tensors"):
        read_checkpoint(path)
    assert "executed" not in capsys.readouterr().out


def test_a_truncated_checkpoint_is_an_integrity_error(tmp_path):
    path = tmp_path / "netG.pth"
    path.write_bytes((DATA / "dcgan" / "netG_epoch_24.pth").read_bytes()[:5000])
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_checkpoint(path)


def test_a_checkpoint_without_weights_says_what_it_holds(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"epoch": 3, "lr": 0.1}, path)
    with pytest.raises(UsageError, match="no state dict among epoch, lr"):
        state_from_checkpoint(read_checkpoint(path))
