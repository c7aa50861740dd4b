#include "graph/tensor.h"

#include <math.h>
#include <string.h>

#define DIMENSION_LIMIT ((int64_t)1 << 31)

/* Fields of TensorProto. */
enum { DIMS = 1, DATA_TYPE = 2, FLOAT_DATA = 4, INT32_DATA = 5, INT64_DATA = 7, RAW_DATA = 9, DOUBLE_DATA = 10 };

static const struct {
    int64_t dtype;
    unsigned own; /* the field that holds its values where `raw_data` does not */
    size_t bytes;
} elements[] = {
    {TV_ONNX_FLOAT, FLOAT_DATA, 4}, {TV_ONNX_UINT8, INT32_DATA, 1}, {TV_ONNX_INT8, INT32_DATA, 1},
    {TV_ONNX_INT32, INT32_DATA, 4}, {TV_ONNX_INT64, INT64_DATA, 8}, {TV_ONNX_BOOL, INT32_DATA, 1},
    {TV_ONNX_FLOAT16, INT32_DATA, 2}, {TV_ONNX_DOUBLE, DOUBLE_DATA, 8},
};
#define ELEMENTS (sizeof elements / sizeof elements[0])

static size_t place_of(int64_t dtype)
{
    size_t place = 0;
    while (place < ELEMENTS && elements[place].dtype != dtype)
        place++;
    return place;
}

bool tv_is_element_type(int64_t dtype)
{
    return place_of(dtype) < ELEMENTS;
}

bool tv_graph_sizes_check(tv_graph_reader *reader, const int64_t *sizes, size_t count)
{
    bool good = count <= TV_GRAPH_RANK_LIMIT;
    for (size_t index = 0; good && index < count; index++)
        good = sizes[index] >= 0 && sizes[index] < DIMENSION_LIMIT;
    return good || tv_graph_refuse(reader, "a tensor of impossible sizes");
}

static bool read_dims(tv_graph_reader *reader, const tv_wire_field *message, tv_graph_tensor *tensor)
{
    tv_wire_numbers numbers = {message, DIMS, 0};
    int64_t size;
    tensor->count = 1.0;
    for (; tv_wire_next_number(&numbers, &size); tensor->rank++) {
        if (tensor->rank == TV_GRAPH_RANK_LIMIT || !tv_graph_sizes_check(reader, &size, 1))
            return tv_graph_refuse(reader, "a tensor of impossible sizes");
        tensor->dims[tensor->rank] = size;
        tensor->count *= (double)size;
    }
    return true;
}

/* How many values a field has, all its occurrences together. */
static double values_in(const tv_wire_field *message, unsigned field)
{
    double found = 0.0;
    int64_t ignored;
    tv_wire_numbers numbers = {message, field, 0};
    if (field == INT32_DATA || field == INT64_DATA) {
        while (tv_wire_next_number(&numbers, &ignored))
            found += 1.0;
        return found;
    }
    for (const tv_wire_field *one = tv_wire_find(message, field); one != NULL; one = tv_wire_find(one->next, field))
        found += (double)one->bytes / (field == FLOAT_DATA ? 4.0 : 8.0);
    return found;
}

/* IEEE 754 binary16 as a double. */
static double double_from_half(unsigned bits)
{
    int power = (int)(bits >> 10 & 31);
    double digits = (double)(bits & 1023);
    double size = power == 0    ? ldexp(digits, -24)
                  : power == 31 ? (digits == 0.0 ? HUGE_VAL : nan(""))
                                : ldexp(1024.0 + digits, power - 25);
    return bits >> 15 != 0 ? -size : size;
}

static double value_at(int64_t dtype, const unsigned char *at, size_t bytes)
{
    uint64_t bits = 0;
    uint32_t low;
    float real;
    double number;
    for (size_t index = 0; index < bytes; index++)
        bits |= (uint64_t)at[index] << 8 * index;
    low = (uint32_t)bits;
    switch (dtype) {
    case TV_ONNX_FLOAT:
        memcpy(&real, &low, sizeof real);
        return (double)real;
    case TV_ONNX_DOUBLE:
        memcpy(&number, &bits, sizeof number);
        return number;
    case TV_ONNX_FLOAT16:
        return double_from_half((unsigned)bits);
    case TV_ONNX_INT8:
        return (double)(int8_t)bits;
    case TV_ONNX_INT32:
        return (double)(int32_t)low;
    case TV_ONNX_INT64:
        return (double)(int64_t)bits;
    case TV_ONNX_BOOL:
        return bits != 0;
    default:
        return (double)bits;
    }
}

/* The values of a short constant, where they are raw or of 64 bits. */
static bool read_values(tv_graph_reader *reader, const tv_wire_field *message, size_t width, tv_graph_tensor *tensor)
{
    const tv_wire_field *raw = tv_wire_find(message, RAW_DATA);
    tv_wire_numbers numbers = {message, INT64_DATA, 0};
    int64_t number;
    if (tensor->count > TV_GRAPH_SHORT || (raw == NULL && tensor->dtype != TV_ONNX_INT64))
        return true;
    double *values = tv_arena_take(reader->arena, (size_t)tensor->count + 1, sizeof *values);
    if (values == NULL)
        return tv_graph_no_memory(reader);
    tensor->values = values;
    tensor->value_count = (size_t)tensor->count;
    for (size_t index = 0; index < tensor->value_count; index++) {
        if (raw != NULL)
            values[index] = value_at(tensor->dtype, raw->data + index * width, width);
        else if (tv_wire_next_number(&numbers, &number))
            values[index] = (double)number;
    }
    return true;
}

static bool read_tensor(tv_graph_reader *reader, const tv_wire_field *message, tv_graph_tensor *tensor)
{
    static const unsigned data_fields[] = {FLOAT_DATA, INT32_DATA, INT64_DATA, RAW_DATA, DOUBLE_DATA};
    tensor->dtype = tv_wire_number(message, DATA_TYPE);
    size_t place = place_of(tensor->dtype), given = 0;
    if (place == ELEMENTS)
        return tv_graph_refuse(reader, "a constant of element type %lld, which export never writes",
                               (long long)tensor->dtype);
    if (!read_dims(reader, message, tensor))
        return false;
    bool fits = true;
    for (size_t index = 0; index < sizeof data_fields / sizeof data_fields[0]; index++) {
        unsigned field = data_fields[index];
        bool has = tv_wire_find(message, field) != NULL;
        given += has;
        fits = fits && (!has || field == RAW_DATA || field == elements[place].own);
    }
    if (!fits || given > 1)
        return tv_graph_refuse(reader, "a constant's values are not of its type, or are given twice");
    const tv_wire_field *raw = tv_wire_find(message, RAW_DATA);
    double found = raw != NULL ? (double)raw->bytes / (double)elements[place].bytes
                               : values_in(message, elements[place].own);
    if (found != tensor->count)
        return tv_graph_refuse(reader, "a constant of %.0f elements has the values of %g", tensor->count, found);
    return read_values(reader, message, elements[place].bytes, tensor);
}

const tv_graph_tensor *tv_graph_tensor_read(tv_graph_reader *reader, const tv_wire_field *message)
{
    tv_graph_tensor *tensor = tv_arena_take(reader->arena, 1, sizeof *tensor);
    if (tensor == NULL) {
        tv_graph_no_memory(reader);
        return NULL;
    }
    return read_tensor(reader, message, tensor) ? tensor : NULL;
}
