"""Reports of a run: progress, the log, TensorBoard, samples, and curves at the end.

RUN/log.jsonl       terms of the losses, every LOG_EVERY steps
RUN/tensorboard/    the same as scalars, and the samples
RUN/samples/        real pictures, their reconstructions, and pictures generated from their captions
RUN/curves.png      all terms over all phases
"""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer

from textual_vision.runtime.errors import BackendMissingError
from textual_vision.runtime.files import write_atomic
from textual_vision.runtime.progress import ProgressCallback
from textual_vision.training.data.batches import PictureSource
from textual_vision.training.evaluation.contact_sheet import contact_sheet
from textual_vision.training.evaluation.sampling import generate_images, reconstruct
from textual_vision.training.models.text_to_image import TextToImageModel
from textual_vision.training.trainer.state import LOG, PHASES, read_log

if TYPE_CHECKING:
    from rich.progress import Progress

LOG_EVERY = 10  # steps
SAMPLE_EVERY = 200  # steps
SAMPLES = 8  # pictures on a sheet, each three times


class RunLogger:
    """Reports of the main process."""

    def __init__(self, out: Path, on_progress: ProgressCallback) -> None:
        self.out, self.on_progress = out, on_progress
        self.writer: Any = None
        self.progress: Progress | None = None
        self.task: Any = None
        self.started, self.first = time.monotonic(), 0

    def open(self, first_global_step: int) -> None:
        """Open TensorBoard's writer; events after `first_global_step` are discarded."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise BackendMissingError(
                "tensorboard is not installed", "pip install 'promptsprite[train]'"
            ) from error
        self.writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=first_global_step)

    def start_phase(self, name: str, first: int, steps: int) -> None:
        """Start the progress bar of a phase on a terminal, and the clock for the time left."""
        self.started, self.first = time.monotonic(), first
        if not sys.stdout.isatty():
            return
        from rich import progress

        if self.progress is None:
            columns = (*progress.Progress.get_default_columns(), progress.TextColumn("{task.fields[terms]}"))
            self.progress = progress.Progress(*columns)
            self.progress.start()
        self.task = self.progress.add_task(name, total=steps, completed=first, terms="")

    def step(self, phase: str, step: int, steps: int, terms: dict[str, float], global_step: int) -> None:
        """Report one step."""
        self.log({"phase": phase, "step": step, **terms})
        for name, value in terms.items():
            self.writer.add_scalar(f"{phase}/{name}", value, global_step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in terms.items())
        if self.progress is not None:
            first = next(iter(terms))  # there is no room for all
            self.progress.update(self.task, completed=step + 1, terms=f"{first} {terms[first]:.4g}")
            return
        left = (time.monotonic() - self.started) / (step + 1 - self.first) * (steps - step - 1)
        self.on_progress(f"{phase} {step + 1}/{steps}  {shown}  {left / 60:.0f} min left")

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to log.jsonl."""
        with (self.out / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def sample(self, name: str, sheet: bytes, global_step: int) -> None:
        """Write a sheet of generated pictures, as a file and in TensorBoard."""
        folder = self.out / "samples"
        folder.mkdir(exist_ok=True)
        write_atomic(folder / f"{name}.png", sheet)
        self.writer.add_image("samples", _array_from_png(sheet), global_step, dataformats="HWC")

    def close(self) -> None:
        """Close the progress bar and the writer."""
        if self.progress is not None:
            self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def curves(self) -> None:
        """Write RUN/curves.png from the log."""
        write_atomic(self.out / "curves.png", curves_from_log(read_log(self.out)))


def sample_sheet(
    model: TextToImageModel,
    weights: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    source: PictureSource,
) -> bytes:
    """A PNG of real pictures, their reconstructions, and pictures generated from their captions."""
    shown = copy.deepcopy(model).eval()
    shown.load_state_dict(weights)
    chosen = [int(index) for index in np.linspace(0, len(source) - 1, SAMPLES)]
    captions = [source.captions(index)[0] for index in chosen]
    real = np.stack([source.picture(index) for index in chosen])
    again = reconstruct(shown, tokenizer, real, captions).pictures
    generated = generate_images(shown, tokenizer, captions, range(SAMPLES)).pictures
    below = ["real"] * SAMPLES + ["reconstructed"] * SAMPLES + captions
    return contact_sheet(np.concatenate([real, again, generated]), below, SAMPLES)


def curves_from_log(log: list[dict[str, Any]]) -> bytes:
    """A PNG with one panel per term, phases one after another, from lines of log.jsonl."""
    import io

    from matplotlib.figure import Figure

    lines = [line for line in log if line.get("phase") in PHASES]
    names = [n for n in dict.fromkeys(n for line in lines for n in line) if n not in ("phase", "step")]
    columns = 3
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(4 * columns, 2.5 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, name in zip(panels, names, strict=False):
        for phase in PHASES:
            points = [(x["step"], x[name]) for x in lines if x["phase"] == phase and name in x]
            if points:
                panel.plot(*zip(*points, strict=True), label=phase, linewidth=1)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("step of its phase", fontsize=7)
        panel.legend(fontsize=7)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _array_from_png(data: bytes) -> Any:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))
