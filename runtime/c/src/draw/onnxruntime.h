/*
 * ONNX Runtime's C API, as far as it is used here, from a shared library that is loaded when it is needed.
 *
 * The library gives a table of functions whose order never changes [1], so a function is its place in the table and
 * its signature. They are written down here from that documented ABI; no header of ONNX Runtime is needed.
 *
 * [1] https://onnxruntime.ai/docs/api/c/struct_ort_api.html
 */
#ifndef TV_ONNXRUNTIME_H
#define TV_ONNXRUNTIME_H

#include <stddef.h>
#include <stdint.h>

typedef struct tv_ort_status tv_ort_status; /* NULL: no error */
typedef struct tv_ort_env tv_ort_env;
typedef struct tv_ort_options tv_ort_options;
typedef struct tv_ort_session tv_ort_session;
typedef struct tv_ort_memory tv_ort_memory;
typedef struct tv_ort_allocator tv_ort_allocator;
typedef struct tv_ort_value tv_ort_value;
typedef struct tv_ort_shape tv_ort_shape;

/* ONNXTensorElementDataType */
enum {
    TV_ORT_FLOAT32 = 1,
    TV_ORT_UINT8 = 2,
    TV_ORT_INT8 = 3,
    TV_ORT_INT32 = 6,
    TV_ORT_INT64 = 7,
    TV_ORT_BOOL = 9,
    TV_ORT_FLOAT16 = 10
};

typedef struct {
    const char *version; /* of the library, such as "1.20.0" */
    const char *(*get_error_message)(const tv_ort_status *status);
    void (*release_status)(tv_ort_status *status);
    tv_ort_status *(*create_env)(int severity, const char *name, tv_ort_env **out);
    void (*release_env)(tv_ort_env *env);
    tv_ort_status *(*create_options)(tv_ort_options **out);
    tv_ort_status *(*set_log_severity)(tv_ort_options *options, int severity);
    tv_ort_status *(*set_intra_threads)(tv_ort_options *options, int threads);
    tv_ort_status *(*set_inter_threads)(tv_ort_options *options, int threads);
    tv_ort_status *(*add_config_entry)(tv_ort_options *options, const char *key, const char *value);
    void (*release_options)(tv_ort_options *options);
    tv_ort_status *(*create_session)(const tv_ort_env *env, const void *graph, size_t bytes,
                                     const tv_ort_options *options, tv_ort_session **out);
    tv_ort_status *(*get_input_count)(const tv_ort_session *session, size_t *out);
    tv_ort_status *(*get_output_count)(const tv_ort_session *session, size_t *out);
    tv_ort_status *(*get_input_name)(const tv_ort_session *session, size_t index, tv_ort_allocator *allocator,
                                     char **out);
    tv_ort_status *(*get_output_name)(const tv_ort_session *session, size_t index, tv_ort_allocator *allocator,
                                      char **out);
    tv_ort_status *(*run)(tv_ort_session *session, const void *run_options, const char *const *input_names,
                          const tv_ort_value *const *inputs, size_t input_count, const char *const *output_names,
                          size_t output_count, tv_ort_value **outputs);
    void (*release_session)(tv_ort_session *session);
    tv_ort_status *(*get_allocator)(tv_ort_allocator **out);
    tv_ort_status *(*allocator_free)(tv_ort_allocator *allocator, void *memory);
    tv_ort_status *(*create_cpu_memory)(int allocator_kind, int memory_kind, tv_ort_memory **out);
    void (*release_memory)(tv_ort_memory *memory);
    tv_ort_status *(*create_tensor)(const tv_ort_memory *memory, void *data, size_t bytes, const int64_t *shape,
                                    size_t rank, int type, tv_ort_value **out);
    tv_ort_status *(*is_tensor)(const tv_ort_value *value, int *out);
    tv_ort_status *(*get_data)(tv_ort_value *value, void **out);
    tv_ort_status *(*get_shape)(const tv_ort_value *value, tv_ort_shape **out);
    tv_ort_status *(*get_type)(const tv_ort_shape *shape, int *out);
    tv_ort_status *(*get_rank)(const tv_ort_shape *shape, size_t *out);
    tv_ort_status *(*get_sizes)(const tv_ort_shape *shape, int64_t *sizes, size_t count);
    void (*release_shape)(tv_ort_shape *shape);
    void (*release_value)(tv_ort_value *value);
} tv_ort;

/*
 * Load the shared library at `path`, or where the system and TV_ONNXRUNTIME say when it is NULL. It stays loaded
 * until the process ends, since its threads may. TV_BACKEND_MISSING.
 */
int tv_ort_load(tv_ort *ort, const char *path);

/* The first line of the status's message, at most `room` bytes; the status is released. */
void tv_ort_message(const tv_ort *ort, tv_ort_status *status, char *out, size_t room);

#endif
