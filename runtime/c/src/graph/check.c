#include "graph/check.h"

#include <stdio.h>
#include <string.h>

#include "graph/limits.h"
#include "graph/operators.h"
#include "graph/tensor.h"

#define IR_LOWEST 8
#define IR_HIGHEST 13
#define OPSET_LOWEST 17
#define OPSET_HIGHEST 23
#define WINDOW_LIMIT 1024 /* a convolution's kernel size, stride, dilation or padding */
#define INT_LIMIT ((int64_t)1 << 20)
#define SHOWN_BYTES 100

/* Fields of the messages of onnx.proto3. */
enum { MODEL_OPSET = 8, OPSET_DOMAIN = 1, OPSET_VERSION = 2, GRAPH_INPUT = 11, GRAPH_OUTPUT = 12, GRAPH_VALUE = 13 };
enum { VALUE_TYPE = 2, TENSOR_TYPE = 1, ELEMENT_TYPE = 1, SHAPE = 2, DIMENSION = 1, DIMENSION_SIZE = 1 };

static bool is_one_of(tv_text text, const char *const *names)
{
    for (; *names != NULL; names++)
        if (tv_text_is(text, *names))
            return true;
    return false;
}

static bool check_versions(tv_graph_reader *reader, const tv_graph_model *model)
{
    if (model->ir_version < IR_LOWEST || model->ir_version > IR_HIGHEST)
        return tv_graph_refuse(reader, "IR version %lld, known are %d to %d", (long long)model->ir_version, IR_LOWEST,
                               IR_HIGHEST);
    const tv_wire_field *opset = tv_wire_find(model->model, MODEL_OPSET);
    if (opset == NULL || tv_wire_find(opset->next, MODEL_OPSET) != NULL ||
        tv_wire_text(opset->child, OPSET_DOMAIN).bytes != 0)
        return tv_graph_refuse(reader, "it imports other operators than ONNX's own");
    int64_t version = tv_wire_number(opset->child, OPSET_VERSION);
    if (version < OPSET_LOWEST || version > OPSET_HIGHEST)
        return tv_graph_refuse(reader, "opset %lld, known are %d to %d", (long long)version, OPSET_LOWEST,
                               OPSET_HIGHEST);
    return true;
}

/* Integers, one or several, from 0 to the limit. */
static bool is_window(const tv_graph_attribute *attribute)
{
    int64_t number;
    tv_wire_numbers numbers = {attribute->message, 8, 0};
    if (tv_attribute_integer(attribute, &number))
        return number >= 0 && number <= WINDOW_LIMIT;
    if (attribute->type != TV_ATTRIBUTE_INTS)
        return false;
    while (tv_wire_next_number(&numbers, &number))
        if (number < 0 || number > WINDOW_LIMIT)
            return false;
    return true;
}

static bool check_attribute(tv_graph_reader *reader, const tv_graph_node *node, const tv_graph_attribute *attribute)
{
    static const char *const windows[] = {"dilations", "kernel_shape", "output_padding", "output_shape",
                                          "pads",      "strides",      "blocksize",      NULL};
    static const char *const types[] = {"dtype", "output_dtype", "stash_type", "to", NULL};
    static const char *const with_large[] = {"Constant", "Shape", NULL}; /* attributes that mean "to the end" */
    int64_t number;
    bool is_integer = tv_attribute_integer(attribute, &number);
    int op = (int)node->op_type.bytes, name = (int)attribute->name.bytes;
    if (is_one_of(attribute->name, windows))
        return is_window(attribute) || tv_graph_refuse(reader, "%.*s: %.*s not between 0 and %d", op,
                                                       node->op_type.data, name, attribute->name.data, WINDOW_LIMIT);
    if (is_one_of(attribute->name, types))
        return (is_integer && (number == 0 || tv_is_element_type(number))) ||
               tv_graph_refuse(reader, "%.*s: an element type that export never writes", op, node->op_type.data);
    if (tv_text_is(attribute->name, "num_outputs"))
        return (is_integer && number == (int64_t)node->output_count) ||
               tv_graph_refuse(reader, "%.*s: another number of outputs than it says", op, node->op_type.data);
    if (is_integer && !is_one_of(node->op_type, with_large) && (number > INT_LIMIT || number < -INT_LIMIT))
        return tv_graph_refuse(reader, "%.*s: an attribute of impossible size", op, node->op_type.data);
    return true;
}

static int shown(tv_text text)
{
    return text.bytes > SHOWN_BYTES ? SHOWN_BYTES : (int)text.bytes;
}

static bool check_node(tv_graph_reader *reader, const tv_graph_node *node)
{
    char quoted[TV_SHOWN_BYTES], whole[SHOWN_BYTES];
    bool has_domain = node->domain.bytes > 0;
    if (has_domain || !tv_is_allowed_operator(node->op_type)) {
        snprintf(whole, sizeof whole, "%.*s%s%.*s", shown(node->domain), node->domain.data, has_domain ? "." : "",
                 shown(node->op_type), node->op_type.data);
        return tv_graph_refuse(reader, "the operator %s is not allowed in a bundle",
                               tv_quoted(tv_text_of(whole), false, quoted));
    }
    for (size_t index = 0; index < node->attribute_count; index++)
        if (!check_attribute(reader, node, &node->attributes[index]))
            return false;
    return true;
}

static bool check_type(tv_graph_reader *reader, const tv_wire_field *value)
{
    const tv_wire_field *type = tv_wire_find(value->child, VALUE_TYPE);
    const tv_wire_field *tensor = type == NULL ? NULL : tv_wire_find(type->child, TENSOR_TYPE);
    if (tensor == NULL)
        return tv_graph_refuse(reader, "a value without a tensor's type");
    int64_t dtype = tv_wire_number(tensor->child, ELEMENT_TYPE);
    if (!tv_is_element_type(dtype))
        return tv_graph_refuse(reader, "a tensor of element type %lld, which export never writes", (long long)dtype);
    const tv_wire_field *shape = tv_wire_find(tensor->child, SHAPE);
    double count = 1.0;
    size_t known = 0;
    for (const tv_wire_field *one = shape == NULL ? NULL : tv_wire_find(shape->child, DIMENSION); one != NULL;
         one = tv_wire_find(one->next, DIMENSION)) {
        const tv_wire_field *size = tv_wire_find(one->child, DIMENSION_SIZE);
        if (size == NULL)
            continue;
        if (++known > TV_GRAPH_RANK_LIMIT || !tv_graph_sizes_check(reader, &size->number, 1))
            return tv_graph_refuse(reader, "a tensor of impossible sizes");
        count *= size->number > 1 ? (double)size->number : 1.0;
    }
    return count <= TV_GRAPH_ELEMENTS_LIMIT ||
           tv_graph_refuse(reader, "a tensor of %.0f elements, at most %.0f are allowed", count,
                           TV_GRAPH_ELEMENTS_LIMIT);
}

static bool check_types(tv_graph_reader *reader, const tv_graph_model *model)
{
    static const unsigned lists[] = {GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE};
    for (size_t index = 0; index < sizeof lists / sizeof lists[0]; index++)
        for (const tv_wire_field *one = tv_wire_find(model->graph, lists[index]); one != NULL;
             one = tv_wire_find(one->next, lists[index]))
            if (!check_type(reader, one))
                return false;
    return true;
}

static bool check(tv_graph_reader *reader, const unsigned char *data, size_t bytes)
{
    /* ONNX Runtime takes a file with these four bytes at byte 4 for its own format, whatever else it is. */
    static const char ort_format[] = "ORTM";
    tv_graph_model model;
    memset(&model, 0, sizeof model);
    if (bytes >= 8 && memcmp(data + 4, ort_format, 4) == 0)
        return tv_graph_refuse(reader, "it is in ONNX Runtime's own format");
    if (!tv_graph_model_read(reader, data, bytes, &model) || !check_versions(reader, &model))
        return false;
    for (size_t index = 0; index < model.node_count; index++)
        if (!check_node(reader, &model.nodes[index]))
            return false;
    return tv_graph_model_connect(reader, &model) && check_types(reader, &model) && tv_quantization_check(reader, &model) && tv_growth_check(reader, &model);
}

int tv_graph_check(const void *graph, size_t bytes, tv_text name)
{
    tv_arena arena = {NULL, 0, 0};
    tv_graph_reader reader = {&arena, "", false};
    int status = TV_OK;
    if (!check(&reader, graph, bytes)) /* of the graph's own words, the problem quotes what can be printed */
        status = reader.no_memory ? tv_fail_memory()
                                  : tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: not a graph for a bundle: %s",
                                            (int)name.bytes, name.data, reader.problem);
    tv_arena_release(&arena);
    return status;
}
