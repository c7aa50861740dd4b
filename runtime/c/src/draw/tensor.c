#include "draw/tensor.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static const struct {
    const char *name;
    int type;
    size_t bytes;
} types[] = {
    {"float32", TV_ORT_FLOAT32, 4}, {"float16", TV_ORT_FLOAT16, 2}, {"int64", TV_ORT_INT64, 8},
    {"int32", TV_ORT_INT32, 4},     {"uint8", TV_ORT_UINT8, 1},     {"int8", TV_ORT_INT8, 1},
    {"bool", TV_ORT_BOOL, 1},
};

int tv_type_of(tv_text dtype)
{
    for (size_t index = 0; index < TV_COUNT_OF(types); index++)
        if (tv_text_is(dtype, types[index].name))
            return types[index].type;
    return 0;
}

size_t tv_type_bytes(int type)
{
    for (size_t index = 0; index < TV_COUNT_OF(types); index++)
        if (types[index].type == type)
            return types[index].bytes;
    return 0;
}

static tv_tensor *find(const tv_tensors *tensors, tv_text name)
{
    for (size_t index = 0; index < tensors->count; index++)
        if (tv_text_equal(tensors->items[index].name, name))
            return &tensors->items[index];
    return NULL;
}

const tv_tensor *tv_tensors_find(const tv_tensors *tensors, tv_text name)
{
    const tv_tensor *found = NULL;
    for (; tensors != NULL && found == NULL; tensors = tensors->outer)
        found = find(tensors, name);
    return found;
}

static void release(const tv_ort *ort, tv_tensor *tensor)
{
    if (tensor->value != NULL)
        ort->release_value(tensor->value);
    free(tensor->owned);
}

int tv_tensors_put(tv_tensors *tensors, tv_tensor tensor)
{
    tv_tensor *same = find(tensors, tensor.name);
    if (same != NULL) {
        release(tensors->ort, same);
        *same = tensor;
        return TV_OK;
    }
    if (tensors->count == tensors->room) {
        size_t room = tensors->room == 0 ? 16 : 2 * tensors->room;
        tv_tensor *items = realloc(tensors->items, room * sizeof *items);
        if (items == NULL) {
            release(tensors->ort, &tensor);
            return tv_fail_memory();
        }
        tensors->items = items;
        tensors->room = room;
    }
    tensors->items[tensors->count++] = tensor;
    return TV_OK;
}

int tv_tensor_create(const tv_tensors *tensors, tv_tensor *tensor)
{
    size_t bytes = tv_type_bytes(tensor->type);
    for (size_t index = 0; index < tensor->rank; index++) {
        size_t size = (size_t)tensor->shape[index];
        if (size != 0 && bytes > SIZE_MAX / 2 / size)
            return tv_fail_memory();
        bytes *= size;
    }
    tensor->bytes = bytes;
    tensor->data = tensor->owned = malloc(bytes + 1);
    tensor->value = NULL;
    if (tensor->owned == NULL)
        return tv_fail_memory();
    tv_ort_status *status = tensors->ort->create_tensor(tensors->memory, tensor->data, bytes, tensor->shape,
                                                        tensor->rank, tensor->type, &tensor->value);
    if (status == NULL)
        return TV_OK;
    char message[256];
    tv_ort_message(tensors->ort, status, message, sizeof message);
    free(tensor->owned);
    tensor->owned = NULL;
    return tv_fail(TV_FAILED, TV_HINT_EXPORT, "ONNX Runtime failed: %s", message);
}

int tv_tensor_gather(const tv_tensors *tensors, const tv_tensor *source, const size_t *rows, size_t count,
                     tv_tensor *out)
{
    size_t row_bytes = source->shape[0] == 0 ? 0 : source->bytes / (size_t)source->shape[0];
    *out = *source;
    out->shape[0] = (int64_t)count;
    int status = tv_tensor_create(tensors, out);
    for (size_t index = 0; index < count && status == TV_OK && row_bytes > 0; index++)
        memcpy((char *)out->data + index * row_bytes, (const char *)source->data + rows[index] * row_bytes,
               row_bytes);
    return status;
}

int tv_tensor_copy(const tv_tensors *tensors, const tv_tensor *source, tv_text name, tv_tensor *out)
{
    *out = *source;
    out->name = name;
    out->owned = NULL;
    int status = tv_tensor_create(tensors, out);
    if (status == TV_OK)
        memcpy(out->data, source->data, source->bytes);
    return status;
}

int tv_tensors_move(tv_tensors *from, tv_tensors *to, tv_text name)
{
    tv_tensor *found = find(from, name);
    if (found == NULL)
        return TV_OK;
    tv_tensor tensor = *found;
    *found = from->items[--from->count];
    return tv_tensors_put(to, tensor);
}

void tv_tensors_release(tv_tensors *tensors)
{
    for (size_t index = 0; index < tensors->count; index++)
        release(tensors->ort, &tensors->items[index]);
    free(tensors->items);
    tensors->items = NULL;
    tensors->count = tensors->room = 0;
}
