/*
 * An ONNX file as checks need it: operators, constants without their values, types. Numbers of elements and bounds are
 * doubles, since what a file claims may exceed 64 bits.
 */
#ifndef TV_GRAPH_MODEL_H
#define TV_GRAPH_MODEL_H

#include "graph/wire.h"

#define TV_GRAPH_RANK_LIMIT 16
#define TV_GRAPH_SHORT 64 /* values: longer constants are no shape, and are not read */

/* ONNX's numbers of the element types that tv-export writes. */
enum {
    TV_ONNX_FLOAT = 1,
    TV_ONNX_UINT8 = 2,
    TV_ONNX_INT8 = 3,
    TV_ONNX_INT32 = 6,
    TV_ONNX_INT64 = 7,
    TV_ONNX_BOOL = 9,
    TV_ONNX_FLOAT16 = 10,
    TV_ONNX_DOUBLE = 11
};

/* ONNX's numbers of an attribute's type. */
enum { TV_ATTRIBUTE_INT = 2, TV_ATTRIBUTE_STRING = 3, TV_ATTRIBUTE_TENSOR = 4, TV_ATTRIBUTE_INTS = 7 };

typedef struct {
    int64_t dtype, dims[TV_GRAPH_RANK_LIMIT];
    size_t rank, value_count;
    double count;         /* of elements */
    const double *values; /* NULL where there are more than TV_GRAPH_SHORT */
} tv_graph_tensor;

typedef struct {
    tv_text name;
    int64_t type;                 /* 0 is none of those above */
    const tv_wire_field *message; /* its fields */
    const tv_graph_tensor *tensor;
} tv_graph_attribute;

/* A tensor of the graph: a constant, an input, or an operator's output. */
typedef struct {
    tv_text name; /* first: sorted and found by tv_text_compare */
    const tv_graph_tensor *constant; /* NULL when it is none */
    bool known;                      /* given before the operator that is looked at */
    int64_t dtype;                   /* 0 while nothing says it */
    double least;                    /* elements that it has at least */
    const double *values;            /* NULL when they are not known */
    size_t value_count;
} tv_graph_value;

typedef struct {
    tv_text op_type, domain;
    tv_text *inputs, *outputs;
    tv_graph_value **taken, **given; /* by the same places; NULL for an empty name, and for what nothing gives */
    size_t input_count, output_count;
    tv_graph_attribute *attributes;
    size_t attribute_count;
} tv_graph_node;

typedef struct {
    int64_t ir_version;
    const tv_wire_field *model, *graph; /* their fields */
    tv_graph_node *nodes;
    size_t node_count;
    tv_graph_value *values; /* sorted by name */
    size_t value_count;
} tv_graph_model;

/* Read a whole .onnx file; false for anything that tv-export never writes. */
bool tv_graph_model_read(tv_graph_reader *reader, const unsigned char *data, size_t bytes, tv_graph_model *model);

/* Each operator's tensors; false when a name is given twice, or one is taken before it is given. */
bool tv_graph_model_connect(tv_graph_reader *reader, tv_graph_model *model);

bool tv_is_element_type(int64_t dtype);

/* Whether an attribute is an integer, and which. */
bool tv_attribute_integer(const tv_graph_attribute *attribute, int64_t *out);

#endif
