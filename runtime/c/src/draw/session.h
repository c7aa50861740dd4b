/* One stage, loaded by ONNX Runtime and ready to run. */
#ifndef TV_SESSION_H
#define TV_SESSION_H

#include "draw/tensor.h"

typedef struct {
    const tv_ort *ort;
    const tv_stage_spec *stage;
    tv_text file; /* for errors */
    tv_ort_session *session;
    char **names; /* of the inputs, then of the outputs, with zero bytes at their ends */
} tv_session;

/*
 * Load `graph`, which may be given back afterwards; `threads` 0 is ONNX Runtime's choice. Close it in any case.
 * TV_INTEGRITY when ONNX Runtime cannot load it, or its inputs and outputs are not those of the manifest; TV_FAILED.
 */
int tv_session_open(tv_session *session, const tv_ort *ort, const tv_ort_env *env, const tv_stage_spec *stage,
                    tv_text file, const void *graph, size_t bytes, int threads);

void tv_session_close(tv_session *session);

/*
 * Compute the stage from the tensors that its inputs are called after, and put its outputs among them, as many rows
 * as `rows` each. TV_INTEGRITY when an output is not as the manifest says; TV_FAILED.
 */
int tv_session_run(const tv_session *session, tv_tensors *tensors, int64_t rows);

#endif
