"""The worker process of a stage's export; `export_jobs.spawn_worker` starts it."""

from __future__ import annotations

from textual_vision.export.build.stage_export import StageExportSpec, export_stage, rewrite_stage
from textual_vision.export.host.gc_tuning import gc_frozen
from textual_vision.export.host.worker_process import Channel, run_worker
from textual_vision.export.loading.source import load_checked_model
from textual_vision.export.model.batch import ReferenceBatch


@gc_frozen()
def work(task: tuple[StageExportSpec, str, ReferenceBatch], channel: Channel) -> None:
    """Send the stage's exported graph, then the result of `rewrite_stage`."""
    spec, stage, example = task
    # The model is loaded a second time, in a second or so: its stages hold functions that cannot be pickled.
    model = load_checked_model(spec.source, spec.tokens)
    graph = export_stage(model, spec, stage, example)
    channel.send(graph)
    channel.send(rewrite_stage(model, spec, stage, graph, example))


if __name__ == "__main__":
    run_worker(work)
