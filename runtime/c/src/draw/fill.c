/* Tensors that hold one number everywhere, rounded as numpy rounds. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "draw/tensor.h"

#define BATCH "batch"
#define INTEGER_LIMIT 9223372036854775808.0 /* 2^63 */

/* IEEE 754 binary16, to the nearest, ties to even. */
static uint16_t half_from_double(double value)
{
    double size = fabs(value);
    unsigned sign = signbit(value) ? 0x8000u : 0u, bits;
    if (size >= 65520.0) {
        bits = 0x7C00u;
    } else if (size < ldexp(1.0, -14)) {
        bits = (unsigned)nearbyint(ldexp(size, 24));
    } else {
        int power;
        double digits = nearbyint(ldexp(frexp(size, &power), 11)); /* 1024 to 2048 */
        bits = ((unsigned)(power + 13) << 10) + (unsigned)digits;
    }
    return (uint16_t)(sign | bits);
}

static bool is_within(double value, double low, double high)
{
    return value > low - 1.0 && value < high + 1.0;
}

/* Write the number as one element of `type`; false when the type cannot hold it. */
static bool write_element(int type, double value, void *out)
{
    switch (type) {
    case TV_ORT_FLOAT32:
        *(float *)out = (float)value;
        return true;
    case TV_ORT_FLOAT16:
        *(uint16_t *)out = half_from_double(value);
        return true;
    case TV_ORT_INT64:
        if (!(value >= -INTEGER_LIMIT && value < INTEGER_LIMIT))
            return false;
        *(int64_t *)out = (int64_t)value;
        return true;
    case TV_ORT_INT32:
        if (!is_within(value, -2147483648.0, 2147483647.0))
            return false;
        *(int32_t *)out = (int32_t)value;
        return true;
    case TV_ORT_UINT8:
        if (!is_within(value, 0.0, 255.0))
            return false;
        *(uint8_t *)out = (uint8_t)value;
        return true;
    case TV_ORT_INT8:
        if (!is_within(value, -128.0, 127.0))
            return false;
        *(int8_t *)out = (int8_t)value;
        return true;
    default:
        *(unsigned char *)out = value != 0.0;
        return true;
    }
}

int tv_tensor_fill(const tv_tensors *tensors, const tv_tensor_spec *spec, double value, int64_t rows, tv_tensor *out)
{
    const tv_size *sizes = spec->shape.items;
    union {
        int64_t number;
        char bytes[8];
    } element;
    memset(out, 0, sizeof *out);
    out->name = spec->name;
    out->type = tv_type_of(spec->dtype);
    out->rank = spec->shape.count;
    if (!write_element(out->type, value, &element))
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "'%.*s' as %.*s cannot hold %g", (int)spec->name.bytes,
                       spec->name.data, (int)spec->dtype.bytes, spec->dtype.data, value);
    for (size_t index = 0; index < out->rank; index++) {
        bool is_name = sizes[index].name.data != NULL;
        if (is_name && !tv_text_is(sizes[index].name, BATCH))
            return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT,
                           "'%.*s' cannot begin with a number: only its batch may vary", (int)spec->name.bytes,
                           spec->name.data);
        out->shape[index] = is_name ? rows : sizes[index].number;
    }
    int status = tv_tensor_create(tensors, out);
    size_t width = tv_type_bytes(out->type);
    for (size_t place = 0; status == TV_OK && place < out->bytes; place += width)
        memcpy((char *)out->data + place, element.bytes, width);
    return status;
}
