"""Turn errors of torch's exporter into one line: which operator, of which module, at which line."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch._logging.structured import INTERN_TABLE
from torch.export._draft_export import DraftExportReport, FailureReport

from textual_vision.export.model.batch import TOKENS
from textual_vision.export.model.user_code import is_torch, is_user_file, place_in_trace
from textual_vision.export.tracing.fast_translation import decomposed
from textual_vision.runtime.errors import UsageError

GUIDE = "see docs/how-to/custom-model.md"
HINT = f"replace it with operators that ONNX has; {GUIDE}"
VALUES_HINT = f"choose between values with torch.where, and take sizes from shapes alone; {GUIDE}"
_NODE = re.compile(r"translating node %(\w+)")
_OPERATOR = re.compile(r"OpOverload\(op='([\w.]+)'")


_MISSING = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'|^(aten\.\w+)(?:\.\w+)?$")
_RANGE = re.compile(r"Constraints violated \((\w+)\).*?generated guard ([^\n]*)", re.DOTALL)
_SIZES_EQUAL = re.compile(r"Eq\(s\d+, s\d+\)")  # two inputs have one size: no fault
_SIZE = re.compile(r"L\[.*?\.size\(\)\[\d+\]")
_CONSTANT = re.compile(r"marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)")


def export_error(stage: str, error: BaseException, traced: torch.export.ExportedProgram | None) -> UsageError:
    """Return a UsageError of one line; `traced` is the program, if tracing succeeded."""
    texts = [str(link) for link in _chain(error)]
    found = _NODE.search("\n".join(texts))
    node = _failed_node(traced, found.group(1)) if traced is not None and found else None
    if node is not None:
        operator = _OPERATOR.search("\n".join(texts))
        what = operator.group(1) if operator else str(node.target)
        where = place_in_trace(node.meta.get("stack_trace") or "")
        return UsageError(
            f"stage {stage!r} cannot be exported: ONNX has no {what}, "
            f"used by module {_module(node)!r}{where}",
            HINT,
        )
    lines = [line for line in texts[-1].splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    place = next((found for found in map(place_in_trace, texts) if found), "") or _raised_at(error)
    if missing := _MISSING.search(reason):
        reason = f"ONNX has no {missing.group(1) or missing.group(2)}"
    elif not isinstance(
        error, torch._dynamo.exc.TorchDynamoException | RuntimeError | ValueError | TypeError
    ):
        reason = f"{type(error).__name__}: {reason}"
    hint = VALUES_HINT if "data-dependent" in reason else HINT
    return UsageError(f"stage {stage!r} cannot be exported: {reason}{place}", hint)


def size_range(error: BaseException) -> tuple[str, str] | None:
    """Return the dynamic size and the condition on it that the code sets, if that is the error."""
    if (found := _RANGE.search(str(error))) is None:
        return None
    name, guard = found.groups()
    return name, _SIZE.sub(name, guard).rstrip(".")


def size_range_error(stage: str, size: str, condition: str, report: DraftExportReport) -> UsageError:
    """Return a UsageError for `size_range`; `report` is of torch's draft export of the same module."""
    compared = [one for one in report.failures if not _SIZES_EQUAL.fullmatch(str(one.data.get("expr")))]
    where = next((place for place in map(_compared_at, compared) if place), "")
    problem = f"stage {stage!r} cannot be exported for every size of {size}: its code needs {condition}"
    return UsageError(f"{problem}{where}", _any_size_hint(size))


def constant_size(error: BaseException) -> tuple[str, int] | None:
    """Return the dynamic size and the constant that the code makes of it, if that is the error."""
    found = _CONSTANT.search(str(error))
    return (found.group(1), int(found.group(2))) if found else None


def constant_size_error(stage: str, size: str, value: int, report: DraftExportReport) -> UsageError:
    """Return a UsageError for `constant_size`; `report` is of torch's draft export of the same module."""
    # Sizes are also compared with each other, which leaves them dynamic.
    numbered = [one for one in report.failures if f", {value})" in str(one.data.get("expr"))]
    places = map(_compared_at, [*numbered, *report.failures])
    where = next((place for place in places if place), "")
    return UsageError(
        f"stage {stage!r} cannot be exported for more than one size of {size}: "
        f"its code makes it {value}{where}",
        _any_size_hint(size),
    )


def _any_size_hint(size: str) -> str:
    hint = f"make the code work for any {size}: no if, // or list over a size taken from a shape"
    if size == TOKENS:
        hint += "; or export for prompts of one length, --prompt-length"
    return f"{hint}; {GUIDE}"


def _compared_at(failure: FailureReport) -> str:
    """Return ` at FILE:LINE: code` of the line outside torch that compared a size with a number."""
    # The report itself lacks the names of files that an earlier export already recorded.
    files = {number: name for name, number in INTERN_TABLE.items()}
    for frame in reversed(failure.data.get("user_stack", [])):
        file = files.get(frame["filename"], "")
        if file and not is_torch(file):
            return f" at {Path(file).name}:{frame['line']}: {frame['loc'].strip()}"
    return ""


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and its causes, down to the first."""
    found = [error]
    while found[-1].__cause__ is not None:
        found.append(found[-1].__cause__)
    return found


def _failed_node(traced: torch.export.ExportedProgram, name: str) -> torch.fx.Node | None:
    """Return the node called `name`, of the program or of its decomposition, which torch translates."""
    named = [node for node in traced.graph.nodes if node.name == name]
    if not named:
        named = [node for node in decomposed(traced).graph.nodes if node.name == name]
    return named[0] if named else None


def _module(node: torch.fx.Node) -> str:
    """Return the node's innermost module: its path in the stage and its class."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the stage itself"
    path, kind = stack[-1]
    name = kind if isinstance(kind, str) else kind.__name__
    return f"{path or 'the stage itself'} ({name.rpartition('.')[2]})"


def _raised_at(error: BaseException) -> str:
    """Return the last place in the error's traceback that is in a user's own file, "" without one."""
    found = ""
    for link in _chain(error):
        trace = link.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if is_user_file(file):
                found = f" at {Path(file).name}:{trace.tb_lineno}"
            trace = trace.tb_next
    return found
