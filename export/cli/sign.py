"""`tv-export sign`: say by whom a bundle is."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("sign")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Private Ed25519 key, PEM: openssl genpkey -algorithm ed25519 -out private.pem",
)
def sign_command(bundle: Path, key: Path) -> None:
    """Sign BUNDLE with an Ed25519 key.

    `tv-generate --require-signature` then refuses any other bundle.

    Every file's digest is checked first. signature.json then covers all files.
    """
    from textual_vision.runtime.bundle import Bundle
    from textual_vision.runtime.errors import UsageError
    from textual_vision.runtime.files import write_atomic
    from textual_vision.runtime.storage.files import SIGNATURE_NAME
    from textual_vision.runtime.storage.signature import sign_manifest

    opened = Bundle(bundle)
    opened.verify()
    if not opened.root.is_dir():
        raise UsageError(f"{bundle} is a zip archive", "sign the folder, then make the archive")
    write_atomic(opened.root / SIGNATURE_NAME, sign_manifest(opened.manifest_data, key))
    click.echo(f"signed {bundle}")
