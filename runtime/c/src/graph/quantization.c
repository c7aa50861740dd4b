#include "graph/limits.h"
#include "graph/operators.h"

static const tv_graph_attribute *attribute_named(const tv_graph_node *node, const char *name)
{
    for (size_t index = 0; index < node->attribute_count; index++)
        if (tv_text_is(node->attributes[index].name, name))
            return &node->attributes[index];
    return NULL;
}

/* The attribute's integer, `missing` where it is not given; false when it is something else. */
static bool integer_of(const tv_graph_node *node, const char *name, int64_t missing, int64_t *out)
{
    const tv_graph_attribute *attribute = attribute_named(node, name);
    *out = missing;
    return attribute == NULL || tv_attribute_integer(attribute, out);
}

static const tv_graph_tensor *constant_at(const tv_graph_node *node, size_t place)
{
    return place < node->input_count && node->taken[place] != NULL ? node->taken[place]->constant : NULL;
}

static bool have_equal_sizes(const tv_graph_tensor *first, const tv_graph_tensor *second)
{
    bool equal = first->rank == second->rank;
    for (size_t index = 0; equal && index < first->rank; index++)
        equal = first->dims[index] == second->dims[index];
    return equal;
}

static void give_type(tv_graph_node *node, int64_t dtype)
{
    for (size_t place = 0; place < node->output_count; place++)
        if (node->given[place] != NULL)
            node->given[place]->dtype = dtype;
}

/* As many scales as the axis of a constant has sizes. */
static bool check_axis(tv_graph_reader *reader, const tv_graph_node *node, const tv_graph_tensor *scale)
{
    const tv_graph_tensor *taken = constant_at(node, 0);
    int64_t axis;
    if (taken == NULL || scale->count == 1.0)
        return true;
    int64_t rank = (int64_t)taken->rank;
    bool fits = integer_of(node, "axis", 1, &axis) && axis >= -rank && axis < rank;
    fits = fits && (double)taken->dims[axis < 0 ? axis + rank : axis] == scale->count;
    return fits || tv_graph_refuse(reader, "%.*s: %.0f scales do not fit what they scale", (int)node->op_type.bytes,
                                   node->op_type.data, scale->count);
}

static bool check_scale(tv_graph_reader *reader, tv_graph_node *node, bool quantizes)
{
    const tv_graph_tensor *scale = constant_at(node, 1), *zero = constant_at(node, 2);
    bool zero_named = node->input_count > 2 && node->inputs[2].bytes > 0;
    int name = (int)node->op_type.bytes;
    int64_t blocks, dtype;
    if (scale == NULL || (scale->dtype != TV_ONNX_FLOAT && scale->dtype != TV_ONNX_FLOAT16) || scale->rank > 1)
        return tv_graph_refuse(reader, "%.*s: its scale is no constant of floats", name, node->op_type.data);
    if (zero_named && (zero == NULL || !have_equal_sizes(zero, scale) ||
                       (zero->dtype != TV_ONNX_INT8 && zero->dtype != TV_ONNX_UINT8)))
        return tv_graph_refuse(reader, "%.*s: its zero point is no constant of integers like its scale", name,
                               node->op_type.data);
    if (!integer_of(node, "block_size", 0, &blocks) || blocks != 0)
        return tv_graph_refuse(reader, "%.*s: blocks are not allowed", name, node->op_type.data);
    int64_t given = zero != NULL ? zero->dtype : TV_ONNX_INT8;
    if (quantizes) {
        if (zero == NULL && (!integer_of(node, "output_dtype", 0, &dtype) || dtype != TV_ONNX_INT8))
            return tv_graph_refuse(reader, "QuantizeLinear: without a zero point");
        give_type(node, given);
    } else if (node->input_count == 0 || node->taken[0] == NULL || node->taken[0]->dtype != given) {
        return tv_graph_refuse(reader, "DequantizeLinear: what it takes is not of its zero point's type");
    }
    return check_axis(reader, node, scale);
}

bool tv_quantization_check(tv_graph_reader *reader, tv_graph_model *model)
{
    for (size_t index = 0; index < model->node_count; index++) {
        tv_graph_node *node = &model->nodes[index];
        bool quantizes = tv_text_is(node->op_type, "QuantizeLinear");
        if (quantizes || tv_text_is(node->op_type, "DequantizeLinear")) {
            if (!check_scale(reader, node, quantizes))
                return false;
        } else if (tv_operator_moves(node->op_type) && node->input_count > 0 && node->taken[0] != NULL &&
                   node->taken[0]->dtype != 0) {
            give_type(node, node->taken[0]->dtype);
        }
    }
    return true;
}
