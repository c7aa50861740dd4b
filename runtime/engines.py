"""Engines in a bundle: what one was built for, whether it runs here, and engine.json beside its plans.

engines/<fingerprint>/<precision>/<stage>.plan are raw plans; engine.json in the same folder says for which
library, version and GPU they were built, from which graphs, for which shapes, and in which arithmetic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from textual_vision.runtime.bundle import Bundle
from textual_vision.runtime.errors import DeviceMismatchError, IntegrityError, UsageError
from textual_vision.runtime.manifest import EngineSpec
from textual_vision.runtime.strict_json import dataclass_from_json, json_from_bytes, json_from_dataclass

ENGINE_SCHEMA_VERSION = 1
ENGINE_JSON = "engine.json"
KINDS = ("tensorrt", "tensorrt-rtx")
COMPATIBILITIES = ("none", "same-compute-capability", "ampere+")
AMPERE = (8, 0)
TEGRA_RELEASE = Path("/etc/nv_tegra_release")

_TEGRA = re.compile(r"R(\d+)[^,]*,\s*REVISION:\s*([\d.]+)")
_COMPUTE = re.compile(r"\d{1,2}\.\d")


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What an engine was built for, or what is here.

    `kind` is tensorrt or tensorrt-rtx, `library` its version, `compute` the GPU architectures ("8.7").
    `compatibility` "ampere+" runs on every GPU from 8.0 on. `driver` and `jetpack` do not decide: they are
    shown when something else differs.
    """

    kind: str
    library: str
    compute: tuple[str, ...]
    compatibility: str = "none"
    version_compatible: bool = False
    driver: str | None = None
    jetpack: str | None = None

    @property
    def name(self) -> str:
        """A plain name for the folder, as in tensorrt-10.3.0-sm87."""
        gpus = "+".join(f"sm{compute.replace('.', '')}" for compute in self.compute)
        if self.compatibility == "ampere+":
            gpus = "ampere-plus"
        return f"{self.kind}-{self.library}-{gpus}{'-vc' if self.version_compatible else ''}"


@dataclass(frozen=True, kw_only=True)
class ShapeRange:
    """The smallest, the usual and the largest shape of one input."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LayerCount:
    """How many convolutions and matrix products run in which arithmetic, by the engine's own account."""

    int8: int
    fp16: int
    float32: int
    other: int = 0


@dataclass(frozen=True, kw_only=True)
class DlaCount:
    """How many of an engine's layers run on a Jetson's DLA (after fusion, each a piece of the graph), and on
    the GPU."""

    dla: int
    gpu: int


@dataclass(frozen=True, kw_only=True)
class StageEngine:
    """One stage's plan: the graph it came from, its tensors' types, shapes and arithmetic.

    `layers` has the type in which each convolution and matrix product of the graph runs, by node name; it is
    empty, and `dtype_counts` None, when the library does not tell. `dla` is None for an engine on the GPU
    alone.
    """

    graph: str
    graph_sha256: str
    profile: dict[str, ShapeRange]
    dtypes: dict[str, str]
    dtype_counts: LayerCount | None
    layers: dict[str, str]
    dla: DlaCount | None = None


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """engine.json: everything about the plans of one folder."""

    schema_version: int
    fingerprint: Fingerprint
    precision: str
    settings: dict[str, str]
    stages: dict[str, StageEngine]
    dla_core: int | None = None


def engine_folder(fingerprint: Fingerprint, precision: str) -> str:
    """Where the plans for `fingerprint` and `precision` lie in a bundle."""
    return f"engines/{fingerprint.name}/{precision}"


def bytes_from_record(record: EngineRecord) -> bytes:
    """engine.json as UTF-8 text."""
    return (json.dumps(json_from_dataclass(record), indent=2, allow_nan=False) + "\n").encode("utf-8")


def record_from_bytes(data: bytes, name: str) -> EngineRecord:
    """Parse and check engine.json; IntegrityError names the first field that is wrong."""
    record = dataclass_from_json(EngineRecord, json_from_bytes(data, name), name)
    if record.schema_version != ENGINE_SCHEMA_VERSION:
        problem = f"{name}: this runtime reads version {ENGINE_SCHEMA_VERSION}, found {record.schema_version}"
        raise IntegrityError(problem, "build the engines again")
    built = record.fingerprint
    good = built.kind in KINDS and built.compatibility in COMPATIBILITIES and built.compute
    if not good or not all(_COMPUTE.fullmatch(compute) for compute in built.compute):
        raise IntegrityError(f"{name}: no sensible fingerprint", "build the engines again")
    return record


def read_record(bundle: Bundle, spec: EngineSpec) -> EngineRecord:
    """The engine.json that lies beside the plans of `spec`; IntegrityError when it is not there or wrong."""
    first = next(iter(spec.files.values()))
    name = str(PurePosixPath(first).parent / ENGINE_JSON)
    if name not in bundle.manifest.files:
        raise IntegrityError(f"{name}: missing beside the engines", "build the engines again")
    record = record_from_bytes(bundle.read(name), name)
    if record.fingerprint.name != spec.fingerprint or record.precision != spec.precision:
        found = f"{record.fingerprint.name}, {record.precision}"
        raise IntegrityError(
            f"{name}: is of {found}, the manifest says {spec.fingerprint}, {spec.precision}",
            "build the engines again",
        )
    return record


def find_engines(bundle: Bundle, precision: str, here: Fingerprint) -> tuple[EngineSpec, EngineRecord]:
    """The engines of `precision` that run here, those for this very GPU and version before compatible ones.

    Raises DeviceMismatchError, with what differs and the command that builds fitting ones, when there are
    none; IntegrityError when those that fit came from other graphs than the bundle's.
    """
    misfits: list[str] = []
    fitting: list[tuple[EngineSpec, EngineRecord]] = []
    for spec in bundle.manifest.engines:
        if spec.precision != precision:
            continue
        record = read_record(bundle, spec)
        if record.fingerprint.kind != here.kind:
            continue
        if problems := differences(record.fingerprint, here):
            misfits.append(f"{spec.fingerprint} was {'; '.join(problems)}")
        else:
            fitting.append((spec, record))
    if fitting:
        spec, record = min(fitting, key=lambda one: _compatible(one[1].fingerprint))
        check_graphs(bundle, spec, record)
        return spec, record
    command = rebuild_command(bundle, precision, here)
    if not misfits:
        problem = f"the bundle has no {here.kind} engines of precision {precision!r}"
        raise DeviceMismatchError(problem, f"build them on this device: {command}")
    raise DeviceMismatchError(f"no engine runs here: {' | '.join(misfits)}", f"build one here: {command}")


def _compatible(built: Fingerprint) -> tuple[bool, bool]:
    return built.compatibility != "none", built.version_compatible


def differences(built: Fingerprint, here: Fingerprint) -> list[str]:
    """Why an engine built for `built` cannot run on `here`, in words; empty when it can."""
    problems = list(_decisive(built, here))
    if problems:
        for name, one, other in (
            ("driver", built.driver, here.driver),
            ("JetPack's L4T", built.jetpack, here.jetpack),
        ):
            if one != other:
                problems.append(f"built with {name} {one or 'unknown'}, here {other or 'none'}")
    return problems


def _decisive(built: Fingerprint, here: Fingerprint) -> Iterator[str]:
    if built.kind != here.kind:
        yield f"built for {built.kind}, here {here.kind}"
        return
    if not _version_fits(built, here):
        yield f"built for {built.kind} {built.library}, here {here.library}"
    for compute in here.compute:
        if built.compatibility == "ampere+":
            if _numbers(compute) < AMPERE:
                yield f"built for GPUs from compute capability 8.0 on, here {compute}"
        elif compute not in built.compute:
            yield f"built for compute capability {', '.join(built.compute)}, here {compute}"


def _version_fits(built: Fingerprint, here: Fingerprint) -> bool:
    if not built.version_compatible:
        return built.library == here.library
    old, new = _numbers(built.library), _numbers(here.library)
    return old[0] == new[0] and old <= new


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def check_graphs(bundle: Bundle, spec: EngineSpec, record: EngineRecord) -> None:
    """IntegrityError unless every plan came from the graph that the bundle has now."""
    files = bundle.manifest.files
    command = rebuild_command(bundle, spec.precision, record.fingerprint, record.dla_core)
    for stage in spec.files:
        built = record.stages.get(stage)
        now = files[built.graph].sha256 if built is not None and built.graph in files else None
        if built is None or built.graph_sha256 != now:
            was = built.graph_sha256[:12] if built is not None else "nothing"
            problem = f"{spec.files[stage]}: built from a graph {was}…, the bundle's is {str(now)[:12]}…"
            raise IntegrityError(problem, f"the graphs have changed since; build it again: {command}")


def rebuild_command(bundle: Bundle, precision: str, wanted: Fingerprint, dla_core: int | None = None) -> str:
    """The command line that builds engines with the fingerprint `wanted`, in place of those that have it."""
    command = f"tv-export engine {bundle.root} --precision {precision} --target {wanted.kind}"
    if wanted.kind == "tensorrt-rtx":
        # Without a named GPU its engines are for every one from 8.0 on.
        named = wanted.compute if wanted.compatibility == "none" else ()
        command += "".join(f" --compute-capability {compute}" for compute in named)
    elif wanted.compatibility != "none":
        command += f" --hardware-compatibility {wanted.compatibility}"
    if wanted.version_compatible:
        command += " --version-compatible"
    if dla_core is not None:
        command += f" --dla {dla_core}"
    return f"{command} --rebuild"


def jetpack_release(path: Path = TEGRA_RELEASE) -> str | None:
    """The Jetson's L4T release, "36.4.3" (JetPack 6), or None on another machine."""
    if not path.is_file():
        return None
    found = _TEGRA.search(path.read_text("utf-8", "replace"))
    return f"{found[1]}.{found[2]}" if found else None


def check_kind(kind: str) -> None:
    """UsageError unless `kind` is a library that builds engines."""
    if kind not in KINDS:
        raise UsageError(f"unknown kind of engine {kind!r}", f"there are: {', '.join(KINDS)}")
