"""The processor that this process runs on, as far as libraries choose their instructions by it."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
READ_BYTES = 1 << 16  # many processor cores repeat the same lines
FIELDS = (
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "CPU revision",
    "Features",
    "isa",
)


def processor_features() -> str | None:
    """Model and instruction sets of the processor; None where the system does not tell (only Linux does)."""
    try:
        with CPUINFO.open("rb") as file:
            text = file.read(READ_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    whole = text[: text.rfind("\n") + 1]  # the last line may be cut
    lines = {" ".join(line.split()) for line in whole.splitlines() if line.split(":")[0].strip() in FIELDS}
    return "\n".join(sorted(lines)) or None
