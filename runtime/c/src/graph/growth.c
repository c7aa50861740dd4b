#include <math.h>

#include "graph/limits.h"
#include "graph/operators.h"

/* Operators with an input that says how large the result is: its place, and whether by a factor. */
static const struct {
    const char *op_type;
    size_t place;
    bool grows;
} size_inputs[] = {
    {"AffineGrid", 1, false}, {"CenterCropPad", 1, false}, {"Col2Im", 1, false}, {"ConstantOfShape", 0, false},
    {"DFT", 1, false},        {"Expand", 1, false},        {"OneHot", 1, false}, {"Pad", 1, false},
    {"Resize", 2, true},      {"Resize", 3, false},        {"Tile", 1, true},
};

static const tv_graph_value *input_at(const tv_graph_node *node, size_t place)
{
    return place < node->input_count ? node->taken[place] : NULL;
}

static double least_of(const tv_graph_node *node, size_t place)
{
    const tv_graph_value *value = input_at(node, place);
    return value == NULL ? 1.0 : value->least;
}

/* The values of a Constant's first attribute, where they are numbers that a shape could be. */
static bool read_constant(tv_graph_reader *reader, const tv_graph_node *node, const double **values, size_t *count)
{
    const tv_graph_attribute *attribute = node->attribute_count > 0 ? &node->attributes[0] : NULL;
    *values = NULL;
    *count = 0;
    if (attribute == NULL || (attribute->type != TV_ATTRIBUTE_INT && attribute->type != TV_ATTRIBUTE_INTS &&
                              attribute->type != TV_ATTRIBUTE_TENSOR))
        return true;
    if (attribute->tensor != NULL) {
        *values = attribute->tensor->values;
        *count = attribute->tensor->value_count;
        return true;
    }
    unsigned field = attribute->type == TV_ATTRIBUTE_INT ? 3 : 8;
    tv_wire_numbers numbers = {attribute->message, field, 0};
    int64_t number;
    size_t room = 1;
    while (tv_wire_next_number(&numbers, &number))
        room++;
    double *made = tv_arena_take(reader->arena, room, sizeof *made);
    if (made == NULL)
        return tv_graph_no_memory(reader);
    numbers.field = attribute->message;
    while (tv_wire_next_number(&numbers, &number))
        made[(*count)++] = (double)number;
    *count = attribute->type == TV_ATTRIBUTE_INT ? 1 : *count; /* an integer that is left out is 0 */
    *values = made;
    return true;
}

static double padded(const double *pads, size_t count)
{
    double product = 1.0;
    for (size_t index = 0, half = count / 2; index < half; index++)
        product *= 1.0 + fmax(pads[index], 0.0) + fmax(pads[half + index], 0.0);
    return product;
}

static double product_of(const double *sizes, size_t count)
{
    double product = 1.0;
    for (size_t index = 0; index < count; index++)
        product *= fmax(sizes[index], 1.0);
    return product;
}

static double range_length(const tv_graph_node *node)
{
    double given[3];
    for (size_t place = 0; place < 3; place++) {
        const tv_graph_value *value = input_at(node, place);
        if (value == NULL || value->value_count == 0)
            return 1.0;
        given[place] = value->values[0];
    }
    return given[2] != 0.0 ? (given[1] - given[0]) / given[2] : HUGE_VAL;
}

/* A lower bound of the elements that the operator gives, by the values and the elements of its inputs. */
static double least_elements(const tv_graph_node *node)
{
    double count = 1.0;
    bool adds = tv_text_is(node->op_type, "Concat");
    if (tv_operator_keeps_size(node->op_type) && node->input_count > 0) {
        count = least_of(node, 0);
        for (size_t place = 1; place < node->input_count; place++)
            count = adds ? count + least_of(node, place) : fmax(count, least_of(node, place));
    }
    if (tv_text_is(node->op_type, "Range"))
        return range_length(node);
    for (size_t index = 0; index < sizeof size_inputs / sizeof size_inputs[0]; index++) {
        const tv_graph_value *value = input_at(node, size_inputs[index].place);
        if (!tv_text_is(node->op_type, size_inputs[index].op_type) || value == NULL || value->value_count == 0)
            continue;
        double given = tv_text_is(node->op_type, "Pad") ? padded(value->values, value->value_count)
                                                        : product_of(value->values, value->value_count);
        count = fmax(count, given * (size_inputs[index].grows ? least_of(node, 0) : 1.0));
    }
    return count;
}

bool tv_growth_check(tv_graph_reader *reader, tv_graph_model *model)
{
    for (size_t index = 0; index < model->node_count; index++) {
        tv_graph_node *node = &model->nodes[index];
        const double *values = NULL;
        size_t value_count = 0;
        if (tv_text_is(node->op_type, "Constant") && !read_constant(reader, node, &values, &value_count))
            return false;
        double count = least_elements(node);
        if (count > TV_GRAPH_ELEMENTS_LIMIT)
            return tv_graph_refuse(reader, "%.*s gives %.3g elements, at most %.0f are allowed",
                                   (int)node->op_type.bytes, node->op_type.data, count, TV_GRAPH_ELEMENTS_LIMIT);
        for (size_t place = 0; place < node->output_count; place++) {
            tv_graph_value *given = node->given[place];
            if (given == NULL)
                continue;
            if (count > 1.0)
                given->least = count;
            given->values = values;
            given->value_count = value_count;
        }
    }
    return true;
}
