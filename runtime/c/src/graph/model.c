#include "graph/model.h"

#include <stdlib.h>

#include "graph/tensor.h"

#define NODES_LIMIT 50000
#define PLACES_LIMIT 1024 /* inputs or outputs of one operator */
#define NAME_LIMIT 1024   /* characters */

/* Fields of the messages of onnx.proto3. */
enum { MODEL_IR_VERSION = 1, MODEL_GRAPH = 7 };
enum { GRAPH_NODE = 1, GRAPH_INITIALIZER = 5, GRAPH_INPUT = 11, GRAPH_OUTPUT = 12, GRAPH_VALUE_INFO = 13 };
enum { NODE_INPUT = 1, NODE_OUTPUT = 2, NODE_OP_TYPE = 4, NODE_ATTRIBUTE = 5, NODE_DOMAIN = 7 };
enum { ATTRIBUTE_NAME = 1, ATTRIBUTE_TENSOR = 5, ATTRIBUTE_TYPE = 20 };
enum { TENSOR_NAME = 8, VALUE_NAME = 1, VALUE_TYPE = 2 };

static size_t count_of(const tv_wire_field *message, unsigned field)
{
    size_t count = 0;
    for (const tv_wire_field *one = tv_wire_find(message, field); one != NULL; one = tv_wire_find(one->next, field))
        count++;
    return count;
}

static bool check_name(tv_graph_reader *reader, tv_text name)
{
    size_t characters = 0;
    for (size_t place = 0; place < name.bytes; place++)
        characters += ((unsigned char)name.data[place] & 0xC0) != 0x80;
    return (characters >= 1 && characters <= NAME_LIMIT) ||
           tv_graph_refuse(reader, "a name of %zu characters, not between 1 and %d", characters, NAME_LIMIT);
}

/* Whether a sorted list of names has one twice. */
static bool has_twice(tv_text *names, size_t count)
{
    qsort(names, count, sizeof *names, tv_text_compare);
    for (size_t index = 1; index < count; index++)
        if (tv_text_equal(names[index - 1], names[index]))
            return true;
    return false;
}

static bool read_texts(tv_graph_reader *reader, const tv_wire_field *message, unsigned field, tv_text **texts,
                       size_t *count)
{
    *count = 0;
    *texts = tv_arena_take(reader->arena, count_of(message, field) + 1, sizeof **texts);
    if (*texts == NULL)
        return tv_graph_no_memory(reader);
    for (const tv_wire_field *one = tv_wire_find(message, field); one != NULL; one = tv_wire_find(one->next, field))
        (*texts)[(*count)++] = tv_wire_field_text(one);
    return true;
}

/* The value must be in the field of its type, which is left out where it is 0 or empty. */
static bool read_attribute(tv_graph_reader *reader, const tv_wire_field *message, tv_graph_attribute *attribute)
{
    static const struct {
        int64_t type;
        unsigned field;
    } places[] = {{1, 2}, {2, 3}, {3, 4}, {4, 5}, {6, 7}, {7, 8}, {8, 9}};
    unsigned own = 0;
    bool others = false;
    attribute->name = tv_wire_text(message, ATTRIBUTE_NAME);
    attribute->type = tv_wire_number(message, ATTRIBUTE_TYPE);
    attribute->message = message;
    for (size_t index = 0; index < sizeof places / sizeof places[0]; index++) {
        if (places[index].type == attribute->type)
            own = places[index].field;
        else
            others = others || tv_wire_find(message, places[index].field) != NULL;
    }
    if (own == 0 || others)
        return tv_graph_refuse(reader, "an attribute's value is not of its type");
    if (attribute->type != TV_ATTRIBUTE_TENSOR)
        return true;
    const tv_wire_field *tensor = tv_wire_find(message, ATTRIBUTE_TENSOR);
    if (tensor == NULL)
        return tv_graph_refuse(reader, "an attribute's tensor is missing");
    attribute->tensor = tv_graph_tensor_read(reader, tensor->child);
    return attribute->tensor != NULL;
}

bool tv_attribute_integer(const tv_graph_attribute *attribute, int64_t *out)
{
    *out = tv_wire_number(attribute->message, 3);
    return attribute->type == TV_ATTRIBUTE_INT;
}

static bool read_attributes(tv_graph_reader *reader, const tv_wire_field *message, tv_graph_node *node)
{
    size_t count = count_of(message, NODE_ATTRIBUTE);
    node->attributes = tv_arena_take(reader->arena, count + 1, sizeof *node->attributes);
    tv_text *names = tv_arena_take(reader->arena, count + 1, sizeof *names);
    if (node->attributes == NULL || names == NULL)
        return tv_graph_no_memory(reader);
    for (const tv_wire_field *one = tv_wire_find(message, NODE_ATTRIBUTE); one != NULL;
         one = tv_wire_find(one->next, NODE_ATTRIBUTE)) {
        if (!read_attribute(reader, one->child, &node->attributes[node->attribute_count]))
            return false;
        names[node->attribute_count] = node->attributes[node->attribute_count].name;
        node->attribute_count++;
    }
    return !has_twice(names, count) || tv_graph_refuse(reader, "an operator has an attribute twice");
}

static bool read_node(tv_graph_reader *reader, const tv_wire_field *message, tv_graph_node *node)
{
    node->op_type = tv_wire_text(message, NODE_OP_TYPE);
    node->domain = tv_wire_text(message, NODE_DOMAIN);
    if (!read_texts(reader, message, NODE_INPUT, &node->inputs, &node->input_count) ||
        !read_texts(reader, message, NODE_OUTPUT, &node->outputs, &node->output_count))
        return false;
    if (node->input_count > PLACES_LIMIT || node->output_count > PLACES_LIMIT)
        return tv_graph_refuse(reader, "an operator of more than %d inputs or outputs", PLACES_LIMIT);
    node->taken = tv_arena_take(reader->arena, node->input_count + 1, sizeof(tv_graph_value *));
    node->given = tv_arena_take(reader->arena, node->output_count + 1, sizeof(tv_graph_value *));
    if (node->taken == NULL || node->given == NULL)
        return tv_graph_no_memory(reader);
    return read_attributes(reader, message, node);
}

static bool read_nodes(tv_graph_reader *reader, tv_graph_model *model)
{
    size_t count = count_of(model->graph, GRAPH_NODE);
    if (count > NODES_LIMIT)
        return tv_graph_refuse(reader, "%zu operators, at most %d are read", count, NODES_LIMIT);
    model->nodes = tv_arena_take(reader->arena, count + 1, sizeof *model->nodes);
    if (model->nodes == NULL)
        return tv_graph_no_memory(reader);
    for (const tv_wire_field *one = tv_wire_find(model->graph, GRAPH_NODE); one != NULL;
         one = tv_wire_find(one->next, GRAPH_NODE))
        if (!read_node(reader, one->child, &model->nodes[model->node_count++]))
            return false;
    return true;
}

static tv_graph_value *add_value(tv_graph_model *model, tv_text name)
{
    tv_graph_value *value = &model->values[model->value_count++];
    value->name = name;
    value->least = 1.0;
    return value;
}

static bool add_constants(tv_graph_reader *reader, tv_graph_model *model)
{
    for (const tv_wire_field *one = tv_wire_find(model->graph, GRAPH_INITIALIZER); one != NULL;
         one = tv_wire_find(one->next, GRAPH_INITIALIZER)) {
        tv_text name = tv_wire_text(one->child, TENSOR_NAME);
        const tv_graph_tensor *tensor = check_name(reader, name) ? tv_graph_tensor_read(reader, one->child) : NULL;
        if (tensor == NULL)
            return false;
        tv_graph_value *value = add_value(model, name);
        value->constant = tensor;
        value->known = true;
        value->dtype = tensor->dtype;
        value->least = tensor->count;
        value->values = tensor->values;
        value->value_count = tensor->value_count;
    }
    return true;
}

/* Everything that has a name, sorted: two of one name lie side by side. */
static bool collect_values(tv_graph_reader *reader, tv_graph_model *model)
{
    size_t count = count_of(model->graph, GRAPH_INITIALIZER) + count_of(model->graph, GRAPH_INPUT);
    for (size_t index = 0; index < model->node_count; index++)
        count += model->nodes[index].output_count;
    model->values = tv_arena_take(reader->arena, count + 1, sizeof *model->values);
    if (model->values == NULL)
        return tv_graph_no_memory(reader);
    if (!add_constants(reader, model))
        return false;
    for (const tv_wire_field *one = tv_wire_find(model->graph, GRAPH_INPUT); one != NULL;
         one = tv_wire_find(one->next, GRAPH_INPUT))
        add_value(model, tv_wire_text(one->child, VALUE_NAME))->known = true;
    for (size_t index = 0; index < model->node_count; index++)
        for (size_t place = 0; place < model->nodes[index].output_count; place++)
            if (model->nodes[index].outputs[place].bytes > 0)
                add_value(model, model->nodes[index].outputs[place]);
    qsort(model->values, model->value_count, sizeof *model->values, tv_text_compare);
    return true;
}

static tv_graph_value *value_named(const tv_graph_model *model, tv_text name)
{
    tv_graph_value key = {name, NULL, false, 0, 0.0, NULL, 0};
    return name.bytes == 0 ? NULL
                           : bsearch(&key, model->values, model->value_count, sizeof key, tv_text_compare);
}

bool tv_graph_model_connect(tv_graph_reader *reader, tv_graph_model *model)
{
    for (size_t index = 1; index < model->value_count; index++)
        if (tv_text_equal(model->values[index - 1].name, model->values[index].name))
            return tv_graph_refuse(reader, "two tensors have the same name");
    for (size_t index = 0; index < model->node_count; index++) {
        tv_graph_node *node = &model->nodes[index];
        for (size_t place = 0; place < node->input_count; place++) {
            tv_graph_value *value = node->taken[place] = value_named(model, node->inputs[place]);
            if (node->inputs[place].bytes > 0 && (value == NULL || !value->known))
                return tv_graph_refuse(reader, "an input of %.*s is given by no operator before it",
                                       (int)(node->op_type.bytes > 64 ? 64 : node->op_type.bytes), node->op_type.data);
        }
        for (size_t place = 0; place < node->output_count; place++)
            if ((node->given[place] = value_named(model, node->outputs[place])) != NULL)
                node->given[place]->known = true;
    }
    for (const tv_wire_field *one = tv_wire_find(model->graph, GRAPH_OUTPUT); one != NULL;
         one = tv_wire_find(one->next, GRAPH_OUTPUT))
        if (value_named(model, tv_wire_text(one->child, VALUE_NAME)) == NULL)
            return tv_graph_refuse(reader, "an output is given by no operator");
    return true;
}

/* A list of inputs, outputs or intermediates: different names, each with a tensor's type and possible sizes. */
static bool check_list(tv_graph_reader *reader, const tv_wire_field *graph, unsigned field)
{
    size_t count = 0;
    tv_text *names = tv_arena_take(reader->arena, count_of(graph, field) + 1, sizeof *names);
    if (names == NULL)
        return tv_graph_no_memory(reader);
    for (const tv_wire_field *one = tv_wire_find(graph, field); one != NULL; one = tv_wire_find(one->next, field)) {
        names[count] = tv_wire_text(one->child, VALUE_NAME);
        if (!check_name(reader, names[count++]))
            return false;
    }
    return !has_twice(names, count) || tv_graph_refuse(reader, "two values have the same name");
}

bool tv_graph_model_read(tv_graph_reader *reader, const unsigned char *data, size_t bytes, tv_graph_model *model)
{
    tv_wire_field *first;
    if (!tv_wire_read(reader, data, bytes, &first))
        return false;
    const tv_wire_field *graph = tv_wire_find(first, MODEL_GRAPH);
    if (graph == NULL)
        return tv_graph_refuse(reader, "it holds no graph");
    model->model = first;
    model->graph = graph->child;
    model->ir_version = tv_wire_number(first, MODEL_IR_VERSION);
    return check_list(reader, model->graph, GRAPH_INPUT) && check_list(reader, model->graph, GRAPH_OUTPUT) &&
           check_list(reader, model->graph, GRAPH_VALUE_INFO) && read_nodes(reader, model) &&
           collect_values(reader, model);
}
