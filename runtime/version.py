"""The version of this distribution, which packaging reads from here, and the distribution's name."""

from __future__ import annotations

__version__ = "0.1.0"

WHOLE = "promptsprite"
RUNTIME_ALONE = "promptsprite-runtime"  # this package without the other three


def extra_command(extra: str) -> str:
    """The command that installs an extra of the distribution that this package came with."""
    from pathlib import Path

    installed = Path(__file__).parents[2].glob(f"{RUNTIME_ALONE.replace('-', '_')}-*.dist-info")
    return f"pip install '{RUNTIME_ALONE if any(installed) else WHOLE}[{extra}]'"
