"""Bundles made by an attacker, who also writes the digests: a typed error or a picture, never a crash."""

import hashlib
import json
import random

import pytest
from mutated_graphs import damaged_bytes, damaged_graph

BATCH = 40
SECONDS_EACH = 10
CODES = {"0", "1", "2", "3", "7"}  # fine, ONNX Runtime failed, usage, parity, integrity


def places(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def damaged_json(data, rng):
    """One value replaced by one of its kind or of another."""
    value = json.loads(data)
    path = rng.choice(list(places(value)))
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    new = rng.choice(
        [None, True, 0, 1, 2, 3, 8, -1, 2**20, 2**31, 2**63, 1e300, "", "batch", "x" * 500, [], {}, "##"]
    )
    if rng.random() < 0.1:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return json.dumps(value).encode()


def mutant(files, rng):
    """The tiny bundle's files with one of them damaged; its digests and sizes are right again."""
    name = rng.choice(
        ["manifest.json", "tokenizer.json", *[n for n in files if n.endswith(".onnx")], "golden/00.png"]
    )
    damage = rng.choice([damaged_bytes, damaged_json if name.endswith(".json") else damaged_graph])
    if name.endswith(".png"):
        damage = damaged_bytes
    changed = {**files, name: damage(files[name], rng)}
    if name != "manifest.json":
        manifest = json.loads(files["manifest.json"])
        digest = hashlib.sha256(changed[name]).hexdigest()
        manifest["files"][name] = {"sha256": digest, "bytes": len(changed[name])}
        changed["manifest.json"] = json.dumps(manifest).encode()
    return changed


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def answers_of(driver, folders, mode):
    """The answers of one process; a process that dies or hangs fails the test with the last folder's name."""
    records = [str(folder).encode() for folder in folders]
    return driver.lines(mode, records=records, timeout=SECONDS_EACH * len(folders))


def run(driver, files, folder, count, seed, mode="bundles"):
    rng = random.Random(seed)
    codes = []
    for start in range(0, count, BATCH):
        folders = [folder / str(index) for index in range(start, min(start + BATCH, count))]
        for mutated in folders:
            write(mutated, mutant(files, rng))
        answers = answers_of(driver, folders, mode)
        assert len(answers) == len(folders)
        for answer in answers:
            assert answer[0] in CODES
            assert answer[0] == "0" or (answer[1] and answer[2])
        codes += [answer[0] for answer in answers]
    return codes


def test_a_few_hundred_damaged_bundles_are_read_or_refused(sanitized_driver, tiny_files, tmp_path):
    codes = run(sanitized_driver, tiny_files, tmp_path, 240, 0)
    assert codes.count("7") > 100
    assert codes.count("0") > 10


@pytest.fixture
def loop_files(loop_bundle):
    """The files of a model with loops, without the graphs of the model that it replaces."""
    files = {
        file.relative_to(loop_bundle).as_posix(): file for file in loop_bundle.rglob("*") if file.is_file()
    }
    manifest = json.loads(files["manifest.json"].read_text("utf-8"))
    used = set(manifest["precisions"]["fp32"]["files"].values())
    kept = {
        name: file.read_bytes() for name, file in files.items() if name in used or not name.endswith(".onnx")
    }
    manifest["files"] = {name: about for name, about in manifest["files"].items() if name in kept}
    return {**kept, "manifest.json": json.dumps(manifest).encode()}


def test_damaged_bundles_with_loops_are_read_or_refused(sanitized_driver, loop_files, tmp_path):
    codes = run(sanitized_driver, loop_files, tmp_path, 120, 0, "unverified-bundles")
    assert codes.count("7") > 40
    assert codes.count("0") > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_thousands_of_damaged_bundles_with_loops_are_read_or_refused(
    sanitized_driver, loop_files, tmp_path, seed
):
    codes = run(sanitized_driver, loop_files, tmp_path, 300, seed, "unverified-bundles")
    assert codes.count("0") > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_thousands_of_damaged_bundles_are_read_or_refused(sanitized_driver, tiny_files, tmp_path, seed):
    assert run(sanitized_driver, tiny_files, tmp_path, 400, seed).count("0") > 10
