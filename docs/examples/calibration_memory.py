"""Peak memory of a calibration by the number of drawings: it must not grow with them.

    python calibration_memory.py emoji.tv 10 1000

Each number is calibrated in a process of its own, by every method, on the float32 graphs of the bundle.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import onnx

from textual_vision.calibration.ranges import METHODS, threshold_from_histogram
from textual_vision.calibration.samples import FloatPipeline, samples_from_prompts
from textual_vision.export.int8.observer import histograms_of
from textual_vision.export.model.prompts import CALIBRATED
from textual_vision.export.sessions.opening import open_sessions
from textual_vision.runtime.backends.session import default_backend
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.text.tokenizer import Tokenizer

KILOBYTES_PER_MEGABYTE = 1000


def calibrate(folder: Path, drawings: int) -> None:
    """Draw, and read the ranges of every stage; prints the peak of this process in MB."""
    bundle = Bundle(folder)
    manifest = bundle.manifest
    graphs = {s.name: bundle.read(manifest.precisions["fp32"].files[s.name]) for s in manifest.stages}
    pipeline = FloatPipeline(
        stages=manifest.stages,
        sessions=open_sessions(graphs, default_backend()),
        tokenizer=Tokenizer(bundle.read(manifest.text.tokenizer), manifest.text),
        noise_dim=manifest.noise[0].shape[0],
        tables={},
    )
    prompts = CALIBRATED[: min(drawings, 10)]
    samples = samples_from_prompts(
        pipeline, prompts, count=len(prompts), seeds=range(drawings // len(prompts))
    )
    for stage in manifest.stages:
        found = histograms_of(onnx.load_from_string(graphs[stage.name]), samples.inputs[stage.name])
        for histogram in found.values():
            for method in METHODS:
                threshold_from_histogram(histogram, method)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KILOBYTES_PER_MEGABYTE
    print(f"{samples.drawings} drawings: {peak:.0f} MB at the peak", flush=True)


if __name__ == "__main__":
    folder, *counts = sys.argv[1:]
    if len(counts) == 1:
        calibrate(Path(folder), int(counts[0]))
    for count in counts if len(counts) > 1 else ():
        subprocess.run([sys.executable, __file__, folder, count], check=True)
