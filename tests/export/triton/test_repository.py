"""A bundle as a version of a model in a repository: what is written, kept and refused."""

import dataclasses
import json
import threading

import pytest
from pretended_orin import ORIN, options, silent

from textual_vision.export.cli import triton as triton_cli
from textual_vision.export.tensorrt.engines import add_engines
from textual_vision.export.triton import repository as repository_module
from textual_vision.export.triton.options import TritonOptions
from textual_vision.export.triton.repository import write_repository
from textual_vision.export.triton.stage_models import Machine
from textual_vision.runtime import TextToImage, console
from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import DeviceMismatchError, IntegrityError, ParityError, UsageError
from textual_vision.runtime.triton.spec import serving_from_bytes

STAGES = ["text_encoder", "latent", "generator"]


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def serving(repository, version=1):
    return serving_from_bytes((repository / "text_to_image" / str(version) / "serving.json").read_bytes())


def test_the_served_bundle_draws_as_the_whole_one(tiny_bundle, tmp_path):
    result = write_repository(tiny_bundle, tmp_path / "models", TritonOptions())
    assert (result.version, result.precision, result.models) == (1, "fp32", ("text_to_image",))
    assert result.bytes == sum(map(len, files_of(tmp_path / "models").values()))
    served = tmp_path / "models" / "text_to_image" / "1" / "bundle.tv"
    Bundle(served).verify()
    one, other = (TextToImage.load(path, backend="onnxruntime") for path in (tiny_bundle, served))
    assert (one("dog", 7) == other("dog", 7)).all()
    assert not list(tmp_path.glob(".*")), "a temporary folder was left behind"


def test_only_the_served_precision_is_copied(tiny_bundle, tmp_path, edit_manifest):
    def add(manifest):
        manifest["precisions"]["fp16"] = dict(manifest["precisions"]["fp32"])
        manifest["files"]["onnx/fp16/latent.onnx"] = manifest["files"]["onnx/fp32/latent.onnx"]

    (tiny_bundle / "onnx" / "fp16").mkdir()
    (tiny_bundle / "onnx" / "fp16" / "latent.onnx").write_bytes(
        (tiny_bundle / "onnx" / "fp32" / "latent.onnx").read_bytes()
    )
    edit_manifest(add)
    write_repository(tiny_bundle, tmp_path / "models", TritonOptions(precision="fp32"))
    names = set(files_of(tmp_path / "models" / "text_to_image" / "1" / "bundle.tv"))
    assert {name for name in names if name.startswith("onnx")} == {f"onnx/fp32/{one}.onnx" for one in STAGES}
    assert {"golden/golden.json", "MODEL_CARD.md", "tokenizer.json"} <= names


def test_versions_lie_side_by_side(tiny_bundle, tmp_path):
    models = tmp_path / "models"
    write_repository(tiny_bundle, models, TritonOptions())
    before = files_of(models)
    second = write_repository(tiny_bundle, models, TritonOptions(stages="onnxruntime", max_batch=2))
    assert second.version == 2
    assert second.models == ("text_to_image", *(f"text_to_image_{stage}" for stage in STAGES))
    after = files_of(models)
    assert {name for name in before if after[name] != before[name]} == {"text_to_image/config.pbtxt"}
    assert "text_to_image_latent/2/model.onnx" in after
    assert serving(models, 1).backend == "onnxruntime" and not serving(models, 1).stage_models
    assert serving(models, 2).backend is None and list(serving(models, 2).stage_models) == STAGES
    assert write_repository(tiny_bundle, models, TritonOptions()).version == 3
    assert not list(models.rglob(".*"))


def test_other_models_of_a_repository_stay(tiny_bundle, tmp_path):
    (tmp_path / "models" / "other" / "1").mkdir(parents=True)
    (tmp_path / "models" / "other" / "config.pbtxt").write_text('name: "other"')
    write_repository(tiny_bundle, tmp_path / "models", TritonOptions())
    write_repository(tiny_bundle, tmp_path / "models", TritonOptions(name="second"))
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"other", "text_to_image", "second"}


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_the_repository_as_it_was(tiny_bundle, tmp_path, monkeypatch, existing):
    models = tmp_path / "models"
    if existing:
        write_repository(tiny_bundle, models, TritonOptions())
    before = files_of(tmp_path)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository_module, "write_bundle", fail)
    with pytest.raises(OSError, match="No space"):
        write_repository(tiny_bundle, models, TritonOptions(stages="onnxruntime"))
    assert files_of(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))


def test_two_writers_at_once_write_two_versions_or_one_is_refused(tiny_bundle, tmp_path):
    models = tmp_path / "models"
    write_repository(tiny_bundle, models, TritonOptions())
    errors = []

    def write():
        try:
            write_repository(tiny_bundle, models, TritonOptions())
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions = sorted(path.name for path in (models / "text_to_image").iterdir() if path.is_dir())
    assert len(versions) == 3 - len(errors) and versions == ["1", "2", "3"][: len(versions)]
    for version in versions:
        Bundle(models / "text_to_image" / version / "bundle.tv").verify()


def test_engines_of_this_gpu_are_the_stages_of_tensorrt(tiny_bundle, orin, tmp_path):
    add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    chosen = TritonOptions(stages="tensorrt", kind="gpu", max_batch=4)
    write_repository(tiny_bundle, tmp_path / "models", chosen, Machine(trt=orin, device=ORIN))
    spec = Bundle(tiny_bundle).manifest.engines[0]
    for stage in STAGES:
        plan = tmp_path / "models" / f"text_to_image_{stage}" / "1" / "model.plan"
        assert plan.read_bytes() == (tiny_bundle / spec.files[stage]).read_bytes()
    assert serving(tmp_path / "models").stage_models["latent"].dtypes["codes"] == "int64"


def test_an_engine_of_another_gpu_is_refused(tiny_bundle, orin, tmp_path):
    add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    other = dataclasses.replace(ORIN, compute="8.6")
    with pytest.raises(DeviceMismatchError, match=r"built for compute capability 8\.7, here 8\.6"):
        write_repository(
            tiny_bundle,
            tmp_path / "models",
            TritonOptions(stages="tensorrt", kind="gpu"),
            Machine(trt=orin, device=other),
        )
    assert not (tmp_path / "models").exists()


def test_engines_for_smaller_batches_are_refused(tiny_bundle, orin, tmp_path):
    from textual_vision.runtime.manifest import BatchProfile

    profile = BatchProfile(min=1, opt=1, max=2)
    add_engines(tiny_bundle, options(batch_profile=profile), on_progress=silent, trt=orin, device=ORIN)
    chosen = TritonOptions(stages="tensorrt", kind="gpu", max_batch=4)
    with pytest.raises(UsageError, match="takes batches of at most 2, not 4"):
        write_repository(tiny_bundle, tmp_path / "models", chosen, Machine(trt=orin, device=ORIN))


def change_schema(manifest):
    manifest["schema_version"] = 2


def fail_fp32(manifest):
    manifest["precisions"]["fp32"]["verdict"] = "fail"


def rename_parameter(manifest):
    manifest["parameters"] = [{"name": "count", "default": 1.0, "minimum": 0.0, "maximum": 2.0}]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (change_schema, IntegrityError, "this runtime reads 1, the bundle has 2"),
        (fail_fp32, ParityError, "precision 'fp32' failed its comparison"),
        (rename_parameter, UsageError, "parameter 'count' is called as another input"),
    ],
)
def test_a_bundle_that_cannot_be_served_is_refused(edit_manifest, tmp_path, change, kind, words):
    bundle = edit_manifest(change)
    with pytest.raises(kind, match=words):
        write_repository(bundle, tmp_path / "models", TritonOptions())
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"precision": "int8"}, "the bundle has no precision 'int8'"),
        ({"max_batch": 5}, "a batch size of 5"),
        ({"stages": "tensorrt"}, "TensorRT runs on GPUs alone"),
        ({"cache_text": True}, "--cache-text is for stages"),
        ({"name": "../x"}, "is not a plain name"),
    ],
)
def test_options_that_make_no_sense_are_refused(tiny_bundle, tmp_path, given, words):
    with pytest.raises(UsageError, match=words):
        write_repository(tiny_bundle, tmp_path / "models", TritonOptions(**given))


def test_int8_that_would_overflow_is_refused(edit_manifest, tmp_path):
    def add(manifest):
        manifest["precisions"]["int8"] = dict(manifest["precisions"]["fp32"])

    with pytest.raises(UsageError, match="overflows on x86 CPUs without VNNI"):
        write_repository(
            edit_manifest(add), tmp_path / "models", TritonOptions(stages="onnxruntime", precision="int8")
        )


def test_a_model_with_other_pictures_is_refused_beside_the_first(tiny_bundle, tmp_path):
    models = tmp_path / "models"
    write_repository(tiny_bundle, models, TritonOptions())
    served = models / "text_to_image" / "1" / "bundle.tv" / "manifest.json"
    value = json.loads(served.read_text("utf-8"))
    value["image"]["height"] = 16
    served.write_text(json.dumps(value), "utf-8")
    with pytest.raises(UsageError, match="has other inputs and outputs"):
        write_repository(tiny_bundle, models, TritonOptions())


def test_stages_of_two_backends_are_refused_in_one_model(tiny_bundle, orin, tmp_path):
    models = tmp_path / "models"
    add_engines(tiny_bundle, options(), on_progress=silent, trt=orin, device=ORIN)
    write_repository(tiny_bundle, models, TritonOptions(stages="onnxruntime"))
    with pytest.raises(UsageError, match="runs its stages by onnxruntime, not tensorrt"):
        write_repository(
            tiny_bundle,
            models,
            TritonOptions(stages="tensorrt", kind="gpu"),
            Machine(trt=orin, device=ORIN),
        )


def test_a_place_that_is_no_repository_is_refused(tiny_bundle, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "models" / "text_to_image" / "1").mkdir(parents=True)
    for place, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "none" / "models", "is not a folder"),
        (tiny_bundle, "is a bundle"),
        (tmp_path / "models", "did not write"),
    ):
        with pytest.raises(UsageError, match=words):
            write_repository(tiny_bundle, place, TritonOptions())


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        console.run(triton_cli.triton_command, [str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_the_command_says_what_it_wrote(tiny_bundle, tmp_path, capsys):
    code, out, _ = run(capsys, tiny_bundle, "-o", tmp_path / "models")
    assert code == 0
    assert out.splitlines()[0] == f"wrote {tmp_path / 'models' / 'text_to_image' / '1'}"
    assert out.splitlines()[-1] == f"next: tritonserver --model-repository {tmp_path / 'models'}"
    code, out, _ = run(capsys, tiny_bundle, "-o", tmp_path / "models", "--json")
    assert json.loads(out)["version"] == 2


def test_the_command_refuses_in_one_line(tiny_bundle, tmp_path, capsys):
    code, _, err = run(capsys, tiny_bundle, "-o", tmp_path / "models", "--precision", "int4")
    assert code == 2
    assert err.startswith("error: the bundle has no precision 'int4'\nhint: ")
    assert len(err.splitlines()) == 2
