"""A start that takes optimized graphs from the cache draws the same pictures, and never needs the cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from textual_vision.runtime import Bundle, IntegrityError, TextToImage, UsageError
from textual_vision.runtime.backends import onnxruntime as backend
from textual_vision.runtime.backends import optimized_stages
from textual_vision.runtime.backends.optimized_stages import cache_key
from textual_vision.runtime.graph_cache.processor import processor_features

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="graphs are prepared on Linux only"
)
PROMPTS, SEEDS = ["dog wearing sunglasses", "a green forest", "cat", "river"], [0, 7, 2**40, 3]


@pytest.fixture
def graphs(tmp_path, monkeypatch):
    """The folder of entries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "promptsprite" / "graphs"


@pytest.fixture
def counted(monkeypatch):
    """How often graphs were loaded from the cache, and how often from a bundle."""
    counts = {"optimized": 0, "bundle": 0}
    for name, function in (("optimized", "open_optimized"), ("bundle", "open_session")):
        real = getattr(backend, function)

        def count(*arguments, name=name, real=real):
            counts[name] += 1
            return real(*arguments)

        monkeypatch.setattr(backend, function, count)
    return counts


def load(path, **options):
    return TextToImage.load(path, backend="onnxruntime", graph_cache=True, **options)


def drawn(path, graph_cache):
    model = TextToImage.load(path, backend="onnxruntime", graph_cache=graph_cache)
    return model.generate(PROMPTS, SEEDS)


def test_pictures_are_equal_bit_by_bit_without_the_cache_on_the_first_start_and_on_the_next(
    tiny_bundle, graphs, counted
):
    plain = drawn(tiny_bundle, False)
    assert not graphs.exists()
    for found in (drawn(tiny_bundle, True), drawn(tiny_bundle, True)):
        assert np.array_equal(found.images, plain.images)
        assert np.array_equal(found.codes, plain.codes)
    assert counted == {"optimized": 3, "bundle": 6}


def test_the_next_process_finds_the_graphs(tiny_bundle, graphs):
    load(tiny_bundle)
    (entry,) = graphs.iterdir()
    used = (entry / "entry.json").stat().st_mtime_ns
    os.utime(entry / "entry.json", (1000, 1000))
    script = f"from textual_vision.runtime import TextToImage\nTextToImage.load({str(tiny_bundle)!r})('dog')"
    environment = {**os.environ, "TV_GRAPH_CACHE": "on"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    assert list(graphs.iterdir()) == [entry]
    assert (entry / "entry.json").stat().st_mtime_ns > used


def test_an_entry_belongs_to_a_bundle_a_precision_a_library_and_a_processor(
    tiny_bundle, edit_manifest, monkeypatch
):
    def key():
        return cache_key(Bundle(tiny_bundle), "fp32", "onnxruntime")

    keys = [key(), cache_key(Bundle(tiny_bundle), "int8", "onnxruntime")]
    monkeypatch.setattr("onnxruntime.__version__", "99")
    keys.append(key())
    monkeypatch.setattr(optimized_stages, "processor_features", lambda: "another")
    keys.append(key())
    edit_manifest(lambda manifest: manifest.update(name="other"))
    keys.append(key())
    assert len(set(keys)) == 5


def test_the_processor_is_told_by_its_instruction_sets():
    assert any(line.startswith(("flags", "Features", "isa")) for line in processor_features().splitlines())


def test_a_damaged_entry_is_made_again(tiny_bundle, graphs, counted):
    load(tiny_bundle)
    (entry,) = graphs.iterdir()
    (entry / "0.onnx").write_bytes(b"damaged")
    plain = drawn(tiny_bundle, False).images
    assert np.array_equal(load(tiny_bundle).generate(PROMPTS, SEEDS).images, plain)
    assert counted["optimized"] == 0
    load(tiny_bundle)
    assert counted["optimized"] == 3


def test_an_entry_that_the_library_cannot_load_is_made_again(tiny_bundle, graphs, monkeypatch):
    load(tiny_bundle)

    def refuse(*arguments):
        raise IntegrityError("no")

    monkeypatch.setattr(backend, "open_optimized", refuse)
    assert load(tiny_bundle)("dog").shape == (8, 8, 3)
    assert len(list(graphs.iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_only_costs_time(tiny_bundle, graphs):
    graphs.parent.mkdir(parents=True)
    graphs.mkdir(mode=0o500)
    assert load(tiny_bundle)("dog").shape == (8, 8, 3)


def test_a_cache_that_cannot_be_made_only_costs_time(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load(tiny_bundle)("dog").shape == (8, 8, 3)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert load(tiny_bundle)("dog").shape == (8, 8, 3)


def test_a_disk_that_is_full_only_costs_time(tiny_bundle, graphs, monkeypatch):
    def fail(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("textual_vision.runtime.graph_cache.entries._write_record", fail)
    assert load(tiny_bundle)("dog").shape == (8, 8, 3)
    assert list(graphs.iterdir()) == []


def test_a_damaged_bundle_fills_no_cache_and_is_refused_as_without_one(tiny_bundle, graphs):
    file = tiny_bundle / "onnx" / "fp32" / "latent.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="SHA-256"):
        load(tiny_bundle)
    assert list(graphs.iterdir()) == []


def test_a_graph_that_no_bundle_may_hold_is_refused_as_without_a_cache(replace_file, graphs):
    root = replace_file("onnx/fp32/latent.onnx", b"\x0a\x00")
    with pytest.raises(IntegrityError, match="not a graph for a bundle"):
        load(root)
    assert list(graphs.iterdir()) == []


def test_isolated_models_and_other_backends_leave_the_cache_alone(tiny_bundle, graphs):
    load(tiny_bundle, isolated=True).close()
    TextToImage.load(tiny_bundle, backend="openvino", graph_cache=True)
    assert not graphs.exists() or list(graphs.iterdir()) == []


@pytest.mark.parametrize(("value", "expected"), [("off", False), ("on", True), ("", True)])
def test_the_environment_switches_the_cache(tiny_bundle, graphs, monkeypatch, value, expected):
    monkeypatch.setenv("TV_GRAPH_CACHE", value)
    TextToImage.load(tiny_bundle, backend="onnxruntime")
    assert graphs.exists() is expected
    monkeypatch.setenv("TV_GRAPH_CACHE", "maybe")
    with pytest.raises(UsageError, match="TV_GRAPH_CACHE"):
        TextToImage.load(tiny_bundle)


def test_threads_that_sleep_draw_the_same_picture(tiny_bundle):
    plain, sleeping = (
        TextToImage.load(tiny_bundle, backend="onnxruntime", spinning=s) for s in (True, False)
    )
    assert plain.sessions is not sleeping.sessions
    assert np.array_equal(plain("dog", 3), sleeping("dog", 3))


def test_the_command_prepares_graphs_once(tiny_bundle, graphs, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(graphs.parents[2] / "state"))  # trust ends with this test

    def run(*arguments):
        command = [sys.executable, "-m", "textual_vision.runtime.cli.main", str(tiny_bundle), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=graphs.parents[2])

    refused = run("--prepare")
    assert (refused.returncode, "isolated" in refused.stderr) == (2, True)
    found = run("--prepare", "--trust")
    assert found.returncode == 0, found.stderr
    (entry,) = graphs.iterdir()
    assert found.stdout.startswith("prepared tiny in fp32: ")
    assert Path(found.stdout.split(" in ")[-1].strip()) == entry
    assert run("dog", "--graph-cache").returncode == 0
    assert list(graphs.iterdir()) == [entry]
    for wrong in (["dog", "--prepare"], ["--prepare", "--verify"], ["--prepare", "--backend", "openvino"]):
        assert run(*wrong).returncode == 2
