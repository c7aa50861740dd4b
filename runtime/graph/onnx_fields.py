"""The fields of ONNX messages that our export writes; the numbers are those of onnx.proto3.

What is missing here is refused as unknown. What ONNX has and a bundle must not use is listed with the reason,
so that an error says more than a number.
"""

from __future__ import annotations

from textual_vision.runtime.graph.wire import (
    DOUBLES,
    FLOAT,
    FLOATS,
    INT,
    INTS,
    REFUSED,
    TEXT,
    Field,
    Fields,
    fields_by_tag,
)

EXTERNAL = "the graph keeps weights in another file"
SUBGRAPH = "a graph inside an operator (control flow) is not allowed"


def _refused(reason: str) -> Field:
    return Field(name=reason, kind=REFUSED)


def _text(name: str, *, repeated: bool = False) -> Field:
    return Field(name=name, kind=TEXT, repeated=repeated)


def _messages(name: str, message: Fields) -> Field:
    return Field(name=name, message=message, repeated=True)


METADATA = fields_by_tag([(1, _text("key")), (2, _text("value"))])
OPSET = fields_by_tag([(1, _text("domain")), (2, Field(name="version", kind=INT))])
DIMENSION = fields_by_tag(
    [(1, Field(name="dim_value", kind=INT)), (2, _text("dim_param")), (3, _text("denotation"))]
)
SHAPE = fields_by_tag([(1, _messages("dim", DIMENSION))])
TENSOR_TYPE = fields_by_tag([(1, Field(name="elem_type", kind=INT)), (2, Field(name="shape", message=SHAPE))])
TYPE = fields_by_tag(
    [
        (1, Field(name="tensor_type", message=TENSOR_TYPE)),
        (4, _refused("sequences are not allowed")),
        (5, _refused("maps are not allowed")),
        (6, _text("denotation")),
        (8, _refused("sparse tensors are not allowed")),
        (9, _refused("optional values are not allowed")),
    ]
)
VALUE = fields_by_tag(
    [
        (1, _text("name")),
        (2, Field(name="type")),  # read by `TYPE`: most values have the type of another one
        (3, _text("doc_string")),
        (4, _messages("metadata_props", METADATA)),
    ]
)
TENSOR = fields_by_tag(
    [
        (1, Field(name="dims", kind=INTS)),
        (2, Field(name="data_type", kind=INT)),
        (3, _refused("tensors in segments are not allowed")),
        (4, Field(name="float_data", kind=FLOATS)),
        (5, Field(name="int32_data", kind=INTS)),
        (6, _refused("tensors of strings are not allowed")),
        (7, Field(name="int64_data", kind=INTS)),
        (8, _text("name")),
        (9, Field(name="raw_data")),
        (10, Field(name="double_data", kind=DOUBLES)),
        (12, _text("doc_string")),
        (13, _refused(EXTERNAL)),
        (14, _refused(EXTERNAL)),
        (16, _messages("metadata_props", METADATA)),
    ]
)
ATTRIBUTE = fields_by_tag(
    [
        (1, _text("name")),
        (2, Field(name="f", kind=FLOAT)),
        (3, Field(name="i", kind=INT)),
        (4, _text("s")),
        (5, Field(name="t", message=TENSOR)),
        (6, _refused(SUBGRAPH)),
        (7, Field(name="floats", kind=FLOATS)),
        (8, Field(name="ints", kind=INTS)),
        (9, _text("strings", repeated=True)),
        (10, _refused("lists of tensors are not allowed")),
        (11, _refused(SUBGRAPH)),
        (13, _text("doc_string")),
        (14, _refused("types as attributes are not allowed")),
        (15, _refused("types as attributes are not allowed")),
        (20, Field(name="type", kind=INT)),
        (21, _refused("functions are not allowed")),
        (22, _refused("sparse tensors are not allowed")),
        (23, _refused("sparse tensors are not allowed")),
    ]
)
NODE = fields_by_tag(
    [
        (1, _text("input", repeated=True)),
        (2, _text("output", repeated=True)),
        (3, _text("name")),
        (4, _text("op_type")),
        (5, _messages("attribute", ATTRIBUTE)),
        (6, _text("doc_string")),
        (7, _text("domain")),
        (8, _refused("functions are not allowed")),
        (9, _messages("metadata_props", METADATA)),
        (10, _refused("operators placed on devices are not allowed")),
    ]
)
GRAPH = fields_by_tag(
    [
        (1, _messages("node", NODE)),
        (2, _text("name")),
        (5, _messages("initializer", TENSOR)),
        (10, _text("doc_string")),
        (11, _messages("input", VALUE)),
        (12, _messages("output", VALUE)),
        (13, _messages("value_info", VALUE)),
        (14, _refused("quantization annotations are not allowed")),
        (15, _refused("sparse tensors are not allowed")),
        (16, _messages("metadata_props", METADATA)),
    ]
)
MODEL = fields_by_tag(
    [
        (1, Field(name="ir_version", kind=INT)),
        (2, _text("producer_name")),
        (3, _text("producer_version")),
        (4, _text("domain")),
        (5, Field(name="model_version", kind=INT)),
        (6, _text("doc_string")),
        (7, Field(name="graph", message=GRAPH)),
        (8, _messages("opset_import", OPSET)),
        (14, _messages("metadata_props", METADATA)),
        (20, _refused("training graphs are not allowed")),
        (25, _refused("functions are not allowed")),
        (26, _refused("operators placed on devices are not allowed")),
    ]
)
