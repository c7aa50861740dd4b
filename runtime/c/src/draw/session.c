#include "draw/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "draw/session_options.h"

#define MESSAGE_BYTES 512
#define RUN_HINT "tv_verify tells whether the bundle or this machine is to blame"

static size_t input_count(const tv_session *self)
{
    return self->stage->inputs.count;
}

static size_t output_count(const tv_session *self)
{
    return self->stage->outputs.count;
}

static const tv_tensor_spec *spec_at(const tv_session *self, size_t index)
{
    const tv_tensor_spec *inputs = self->stage->inputs.items, *outputs = self->stage->outputs.items;
    return index < input_count(self) ? &inputs[index] : &outputs[index - input_count(self)];
}

static int copy_names(tv_session *self)
{
    size_t count = input_count(self) + output_count(self);
    self->names = calloc(count, sizeof *self->names);
    for (size_t index = 0; self->names != NULL && index < count; index++) {
        tv_text name = spec_at(self, index)->name;
        self->names[index] = malloc(name.bytes + 1);
        if (self->names[index] == NULL)
            return tv_fail_memory();
        memcpy(self->names[index], name.data, name.bytes);
        self->names[index][name.bytes] = '\0';
    }
    return self->names == NULL ? tv_fail_memory() : TV_OK;
}

static int unreadable(const tv_session *self, tv_ort_status *status)
{
    char message[MESSAGE_BYTES];
    tv_ort_message(self->ort, status, message, sizeof message);
    return tv_fail(TV_INTEGRITY, "export it again, or for an older opset", "%.*s: ONNX Runtime cannot load it: %s",
                   (int)self->file.bytes, self->file.data, message);
}

/* Whether the graph has just the names `names`; of equally many, so each must be found. */
static int check_side(const tv_session *self, bool outputs)
{
    const tv_ort *ort = self->ort;
    size_t found = 0, declared = outputs ? output_count(self) : input_count(self);
    char *const *names = outputs ? self->names + input_count(self) : self->names;
    tv_ort_allocator *allocator;
    tv_ort_status *status = (outputs ? ort->get_output_count : ort->get_input_count)(self->session, &found);
    if (status == NULL)
        status = ort->get_allocator(&allocator);
    bool equal = status == NULL && found == declared;
    for (size_t index = 0; index < found && equal; index++) {
        char *name;
        size_t place = 0;
        status = (outputs ? ort->get_output_name : ort->get_input_name)(self->session, index, allocator, &name);
        if (status != NULL)
            break;
        while (place < declared && strcmp(names[place], name) != 0)
            place++;
        equal = place < declared;
        tv_ort_status *ignored = ort->allocator_free(allocator, name);
        if (ignored != NULL)
            ort->release_status(ignored);
    }
    if (status != NULL)
        return unreadable(self, status);
    return equal ? TV_OK
                 : tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: its %s are not those that the manifest says",
                           (int)self->file.bytes, self->file.data, outputs ? "outputs" : "inputs");
}

int tv_session_open(tv_session *self, const tv_ort *ort, const tv_ort_env *env, const tv_stage_spec *stage,
                    tv_text file, const void *graph, size_t bytes, int threads)
{
    memset(self, 0, sizeof *self);
    self->ort = ort;
    self->stage = stage;
    self->file = file;
    int result = copy_names(self);
    if (result != TV_OK)
        return result;
    tv_ort_status *status = tv_load_graph(ort, env, graph, bytes, threads, &self->session);
    if (status != NULL)
        return unreadable(self, status);
    result = check_side(self, false);
    return result == TV_OK ? check_side(self, true) : result;
}

void tv_session_close(tv_session *self)
{
    if (self->session != NULL)
        self->ort->release_session(self->session);
    for (size_t index = 0; self->names != NULL && index < input_count(self) + output_count(self); index++)
        free(self->names[index]);
    free(self->names);
    memset(self, 0, sizeof *self);
}

/* Type, rank and shape of a value of ONNX Runtime's, checked before its data is touched. */
static tv_ort_status *describe(const tv_ort *ort, tv_ort_value *value, tv_tensor *tensor)
{
    tv_ort_shape *shape = NULL;
    int is_tensor = 0;
    tv_ort_status *status = ort->is_tensor(value, &is_tensor);
    if (status == NULL && is_tensor)
        status = ort->get_shape(value, &shape);
    if (status == NULL && shape != NULL)
        status = ort->get_type(shape, &tensor->type);
    if (status == NULL && shape != NULL)
        status = ort->get_rank(shape, &tensor->rank);
    if (status == NULL && shape != NULL && tensor->rank <= TV_MAX_RANK)
        status = ort->get_sizes(shape, tensor->shape, tensor->rank);
    if (status == NULL && shape != NULL)
        status = ort->get_data(value, &tensor->data);
    if (shape != NULL)
        ort->release_shape(shape);
    return status;
}

static int not_as_declared(const tv_session *self, const tv_tensor_spec *spec, const char *problem)
{
    return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: the tensor '%.*s' is not as the manifest says: %s",
                   (int)self->file.bytes, self->file.data, (int)spec->name.bytes, spec->name.data, problem);
}

/* Whether integers that point into a table are from 0 to the limit - 1. */
static bool is_in_range(const tv_tensor_spec *spec, const tv_tensor *tensor)
{
    size_t width = tv_type_bytes(tensor->type), count = width == 0 ? 0 : tensor->bytes / width;
    if (spec->limit == NULL || spec->limit->kind == TV_JSON_NULL)
        return true;
    for (size_t index = 0; index < count; index++) {
        int64_t value;
        if (width == sizeof(int64_t))
            value = ((const int64_t *)tensor->data)[index];
        else if (width == sizeof(int32_t))
            value = ((const int32_t *)tensor->data)[index];
        else
            value = tensor->type == TV_ORT_UINT8 ? ((const uint8_t *)tensor->data)[index]
                                                 : ((const int8_t *)tensor->data)[index];
        if (value < 0 || (double)value >= spec->limit->number)
            return false;
    }
    return true;
}

static int check_output(const tv_session *self, const tv_tensor_spec *spec, tv_tensor *tensor, int64_t rows)
{
    char problem[128];
    const tv_size *sizes = spec->shape.items;
    size_t bytes = tv_type_bytes(tensor->type);
    if (tensor->type == 0 || tensor->type != tv_type_of(spec->dtype))
        return not_as_declared(self, spec, "of another type");
    if (tensor->rank != spec->shape.count || tensor->rank > TV_MAX_RANK)
        return not_as_declared(self, spec, "of another number of dimensions");
    for (size_t index = 0; index < tensor->rank; index++) {
        int64_t size = tensor->shape[index];
        int64_t wanted = index == 0 ? rows : sizes[index].name.data != NULL ? size : sizes[index].number;
        snprintf(problem, sizeof problem, "dimension %zu is %lld, not %lld", index, (long long)size,
                 (long long)wanted);
        if (size != wanted || size < 0)
            return not_as_declared(self, spec, problem);
        if (size != 0 && bytes > SIZE_MAX / 2 / (size_t)size)
            return not_as_declared(self, spec, "too large");
        bytes *= (size_t)size;
    }
    tensor->bytes = bytes;
    if (!is_in_range(spec, tensor))
        return not_as_declared(self, spec, "a value out of its range");
    return tensor->rank == 0 ? not_as_declared(self, spec, "without a row for each picture") : TV_OK;
}

/* Checks the outputs one by one; those that are not kept are released. */
static int keep_outputs(const tv_session *self, tv_ort_value **values, tv_tensors *tensors, int64_t rows)
{
    int result = TV_OK;
    for (size_t index = 0; index < output_count(self); index++) {
        const tv_tensor_spec *spec = spec_at(self, input_count(self) + index);
        tv_tensor tensor;
        memset(&tensor, 0, sizeof tensor);
        tensor.name = spec->name;
        tensor.value = values[index];
        tv_ort_status *status = result == TV_OK ? describe(self->ort, values[index], &tensor) : NULL;
        if (status != NULL)
            result = unreadable(self, status);
        if (result == TV_OK)
            result = check_output(self, spec, &tensor, rows);
        if (result == TV_OK)
            result = tv_tensors_put(tensors, tensor);
        else
            self->ort->release_value(values[index]);
    }
    return result;
}

int tv_session_run(const tv_session *self, tv_tensors *tensors, int64_t rows)
{
    size_t inputs = input_count(self), outputs = output_count(self);
    tv_ort_value **values = calloc(inputs + outputs, sizeof *values);
    if (values == NULL)
        return tv_fail_memory();
    for (size_t index = 0; index < inputs; index++)
        values[index] = tv_tensors_find(tensors, spec_at(self, index)->name)->value;
    tv_ort_status *status =
        self->ort->run(self->session, NULL, (const char *const *)self->names, (const tv_ort_value *const *)values,
                       inputs, (const char *const *)self->names + inputs, outputs, values + inputs);
    int result;
    if (status != NULL) {
        char message[MESSAGE_BYTES];
        tv_ort_message(self->ort, status, message, sizeof message);
        result = tv_fail(TV_FAILED, RUN_HINT, "%.*s: ONNX Runtime failed: %s", (int)self->file.bytes,
                         self->file.data, message);
    } else {
        result = keep_outputs(self, values + inputs, tensors, rows);
    }
    free(values);
    return result;
}
