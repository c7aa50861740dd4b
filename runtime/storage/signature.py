"""Signatures of bundles: Ed25519 (RFC 8032) over manifest.json, which has the digests of all other files.

A signature says who made a bundle; digests alone only show damage. The file signature.json lies beside the
manifest and is not listed in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual_vision.runtime.errors import BackendMissingError, IntegrityError, UsageError
from textual_vision.runtime.storage.files import SIGNATURE_NAME
from textual_vision.runtime.strict_json import dataclass_from_json, json_from_bytes, json_from_dataclass
from textual_vision.runtime.version import extra_command

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_LIMIT_BYTES = 4096
KEY_LIMIT_BYTES = 64 << 10
SCHEMA_VERSION = 1
CONTEXT = b"textual-vision bundle 1\n"  # so that a signature of something else never fits
KEY_HINT = "make a key by `openssl genpkey -algorithm ed25519 -out private.pem`"
PUBLIC_HINT = "give the public key: `openssl pkey -in private.pem -pubout -out public.pem`"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """signature.json: the signature's 64 bytes in hexadecimal."""

    schema_version: int
    ed25519: str


def sign_manifest(manifest: bytes, key: Path) -> bytes:
    """The text of signature.json for the bytes of manifest.json, by the private key in the PEM file `key`.

    Raises UsageError when the file is no unencrypted Ed25519 key, BackendMissingError without the package
    cryptography.
    """
    made = Signature(schema_version=SCHEMA_VERSION, ed25519=_private_key(key).sign(CONTEXT + manifest).hex())
    return (json.dumps(json_from_dataclass(made)) + "\n").encode()


def check_signature(manifest: bytes, signature: bytes | None, key: Path) -> None:
    """Raise IntegrityError unless `signature`, the text of signature.json, is by the public key in `key`.

    None is a bundle without one. Raises UsageError when the file is no Ed25519 key, BackendMissingError
    without the package cryptography.
    """
    public = _public_key(key)
    hint = f"get the bundle from the owner of {key.name}, or sign it by `tv-export sign`"
    if signature is None:
        raise IntegrityError("the bundle has no signature", hint)
    found = dataclass_from_json(Signature, json_from_bytes(signature, SIGNATURE_NAME), "signature")
    if found.schema_version != SCHEMA_VERSION:
        raise IntegrityError(f"{SIGNATURE_NAME}: an unknown schema", "install a newer promptsprite")
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(bytes.fromhex(found.ed25519), CONTEXT + manifest)
    except (InvalidSignature, ValueError):
        raise IntegrityError(f"the bundle's signature is not by the key {key.name}", hint) from None


def _private_key(path: Path) -> Ed25519PrivateKey:
    data = _key_bytes(path, KEY_HINT)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a private key ({error})"[:200], KEY_HINT) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is not an Ed25519 key", KEY_HINT)
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    data = _key_bytes(path, PUBLIC_HINT)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a public key ({error})"[:200], PUBLIC_HINT) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} is not an Ed25519 key", PUBLIC_HINT)
    return key


def _key_bytes(path: Path, hint: str) -> bytes:
    try:
        import cryptography  # noqa: F401 - said before the file is read
    except ImportError:
        raise BackendMissingError(
            "signatures need the package cryptography", extra_command("signatures")
        ) from None
    if not path.is_file():
        raise UsageError(f"there is no file {path}", hint)
    with path.open("rb") as file:
        return file.read(KEY_LIMIT_BYTES)
