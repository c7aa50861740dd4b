"""A signature says who made a bundle: another key, another bundle or none is refused."""

import shutil

import pytest

from textual_vision.export.cli.sign import sign_command
from textual_vision.runtime import Bundle, IntegrityError, TextToImage, UsageError
from textual_vision.runtime.console import run

pytest.importorskip("cryptography", reason="signatures need the package cryptography")

from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


def write_keys(folder, name, kind=Ed25519PrivateKey):
    key = kind.generate()
    private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pem").write_bytes(private)
    (folder / f"{name}-public.pem").write_bytes(public)
    return folder / f"{name}.pem", folder / f"{name}-public.pem"


def sign(bundle, key):
    with pytest.raises(SystemExit) as left:
        run(sign_command, [str(bundle), "--key", str(key)])
    return left.value.code


@pytest.fixture
def keys(tmp_path):
    return write_keys(tmp_path, "ours")


def test_a_signed_bundle_draws_as_a_folder_and_as_an_archive(tiny_bundle, tmp_path, keys):
    private, public = keys
    assert sign(tiny_bundle, private) == 0
    assert TextToImage.load(tiny_bundle, require_signature=public)("dog").shape == (8, 8, 3)
    archive = shutil.make_archive(str(tmp_path / "tiny"), "zip", tiny_bundle)
    Bundle(archive).check_signature(public)


def test_a_bundle_without_a_signature_is_refused(tiny_bundle, keys):
    with pytest.raises(IntegrityError, match="has no signature"):
        TextToImage.load(tiny_bundle, require_signature=keys[1])


def test_a_signature_by_another_key_is_refused(tiny_bundle, tmp_path, keys):
    sign(tiny_bundle, write_keys(tmp_path, "other")[0])
    with pytest.raises(IntegrityError, match=r"not by the key ours-public\.pem"):
        TextToImage.load(tiny_bundle, require_signature=keys[1])


def test_a_manifest_that_changed_after_signing_is_refused(edit_manifest, tiny_bundle, keys):
    sign(tiny_bundle, keys[0])
    edit_manifest(lambda manifest: manifest.update(name="changed"))
    with pytest.raises(IntegrityError, match="not by the key"):
        Bundle(tiny_bundle).check_signature(keys[1])


@pytest.mark.parametrize("text", [b"", b"{}", b'{"schema_version": 1, "ed25519": "zz"}', b"\xff"])
def test_a_damaged_signature_is_refused(tiny_bundle, keys, text):
    (tiny_bundle / "signature.json").write_bytes(text)
    with pytest.raises(IntegrityError):
        Bundle(tiny_bundle).check_signature(keys[1])


def test_what_is_no_key_is_a_usage_error(tiny_bundle, tmp_path, keys):
    private, public = keys
    assert sign(tiny_bundle, public) == 2
    assert sign(tiny_bundle, tmp_path / "nowhere.pem") == 2
    assert sign(tiny_bundle, write_keys(tmp_path, "x", X25519PrivateKey)[0]) == 2
    with pytest.raises(UsageError, match="is not a public key"):
        Bundle(tiny_bundle).check_signature(private)
    assert not (tiny_bundle / "signature.json").exists()
