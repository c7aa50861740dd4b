/* Tensors by name, in memory of ours or of ONNX Runtime's. */
#ifndef TV_TENSOR_H
#define TV_TENSOR_H

#include "bundle/manifest.h"
#include "draw/onnxruntime.h"

typedef struct {
    tv_text name; /* the manifest's */
    int type;     /* as ONNX Runtime numbers them */
    size_t rank;
    int64_t shape[TV_MAX_RANK];
    size_t bytes;
    void *data;
    void *owned; /* to be freed; NULL when the memory is ONNX Runtime's */
    tv_ort_value *value;
} tv_tensor;

typedef struct tv_tensors {
    const tv_ort *ort;
    const tv_ort_memory *memory; /* says that tensors are in the processor's memory */
    tv_tensor *items;
    size_t count, room;
    const struct tv_tensors *outer; /* where names are looked for that are not here; or NULL */
} tv_tensors;

/* The number of ONNX Runtime for a dtype of the manifest; its bytes. 0 when it is unknown. */
int tv_type_of(tv_text dtype);
size_t tv_type_bytes(int type);

/* The tensor called `name`; NULL when there is none. */
const tv_tensor *tv_tensors_find(const tv_tensors *tensors, tv_text name);

/* Keep `tensor`, in place of one of its name, and release it in the end. On an error too. TV_FAILED. */
int tv_tensors_put(tv_tensors *tensors, tv_tensor tensor);

/* A new tensor of ours, to be filled: `tensor`'s name, type, rank and shape are given. TV_FAILED. */
int tv_tensor_create(const tv_tensors *tensors, tv_tensor *tensor);

/* Rows of `source`, the first dimension's, by their numbers. TV_FAILED. */
int tv_tensor_gather(const tv_tensors *tensors, const tv_tensor *source, const size_t *rows, size_t count,
                     tv_tensor *out);

/* The same values under the name `name`. TV_FAILED. */
int tv_tensor_copy(const tv_tensors *tensors, const tv_tensor *source, tv_text name, tv_tensor *out);

/* A new tensor, as `spec` says, of `rows` rows that hold `value` everywhere. TV_INTEGRITY, TV_FAILED. */
int tv_tensor_fill(const tv_tensors *tensors, const tv_tensor_spec *spec, double value, int64_t rows, tv_tensor *out);

/* Give the tensor called `name` to `to`, where it is one of `from`'s own. TV_FAILED. */
int tv_tensors_move(tv_tensors *from, tv_tensors *to, tv_text name);

void tv_tensors_release(tv_tensors *tensors);

#endif
