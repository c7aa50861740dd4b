"""Several processes train what one trains: the same pictures, none twice, the same losses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from textual_vision.training.trainer.state import read_log, read_state

WORKER = """
    import json, sys, torch
    sys.path.insert(0, {folder!r})
    torch.set_num_threads(1)
    # Batch norm sees the share of one process, by design; everything else is the same to rounding.
    class NormOfOnePicture(torch.nn.GroupNorm):
        def __init__(self, channels):
            super().__init__(1, channels)

    torch.nn.BatchNorm2d = NormOfOnePicture
    from pathlib import Path
    from conftest import TINY, Shapes
    from textual_vision.training.trainer import phases
    from textual_vision.training.config_file import config_from_json
    from textual_vision.training.trainer.trainer import TrainingRun

    names = ("codebook_phase", "latent_phase", "joint_phase")
    changes = {{name: {{**TINY[name], "steps": 6}} for name in names}}
    config = config_from_json({{**TINY, **changes}})
    out = Path({out!r})
    training = TrainingRun(config, Shapes(), "notice", out, print)
    seen = []
    share = phases.share_of_step

    def noted(*arguments):
        batch = share(*arguments)
        seen.append([arguments[2], arguments[3], batch.indices])
        return batch

    phases.share_of_step = noted
    training.start()
    training.go()
    rank = training.accelerator.process_index
    (out / f"seen-{{rank}}.json").write_text(json.dumps(seen))
    torch.save(training.model.state_dict(), out / f"model-{{rank}}.pt")
"""


def launch(out: Path, processes: int) -> None:
    """The worker in `processes` processes that talk by gloo, as accelerate's launcher would set them up."""
    out.mkdir()
    script = textwrap.dedent(WORKER).format(folder=str(Path(__file__).parents[1]), out=str(out))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "ACCELERATE_USE_CPU": "true",
                "OMP_NUM_THREADS": "1",
                **({**several, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=600)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n".join(said)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same schedule by one process and by two."""
    folder = tmp_path_factory.mktemp("processes")
    launch(folder / "one", 1)
    launch(folder / "two", 2)
    return folder / "one", folder / "two"


def seen(folder: Path, rank: int) -> list[list[object]]:
    import json

    found: list[list[object]] = json.loads((folder / f"seen-{rank}.json").read_text())
    return found


@pytest.mark.slow
def test_two_processes_see_together_what_one_sees_alone(runs: tuple[Path, Path]) -> None:
    one, two = runs
    for whole, first, second in zip(seen(one, 0), seen(two, 0), seen(two, 1), strict=True):
        assert whole[:2] == first[:2] == second[:2]
        assert whole[2] == first[2] + second[2]  # type: ignore[operator]


@pytest.mark.slow
def test_two_processes_lose_what_one_loses(runs: tuple[Path, Path]) -> None:
    """But for wrong captions: the discriminator takes them from its own share of a batch."""
    one, two = (read_log(folder) for folder in runs)
    assert [line.get("step") for line in one] == [line.get("step") for line in two]
    for alone, together in zip(one, two, strict=True):
        if alone["phase"] != "text":
            tolerance = 1e-2 if alone["phase"] == "joint" else 1e-3
            assert together["loss"] == pytest.approx(alone["loss"], rel=tolerance), (alone, together)


@pytest.mark.slow
def test_codebook_and_weights_are_the_same_on_both_processes(runs: tuple[Path, Path]) -> None:
    first, second = (torch.load(runs[1] / f"model-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


@pytest.mark.slow
def test_two_processes_leave_one_state_that_one_process_can_read(runs: tuple[Path, Path]) -> None:
    assert read_state(runs[1] / "state.pt").keys() == read_state(runs[0] / "state.pt").keys()
