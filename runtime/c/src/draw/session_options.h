/* How graphs are computed: as textual_vision.runtime.backends.onnxruntime does, so that the bits are the same. */
#ifndef TV_SESSION_OPTIONS_H
#define TV_SESSION_OPTIONS_H

#include "draw/onnxruntime.h"

#define TV_ORT_LOG_FATAL 4 /* everything else is an error of ours, not a line on the user's terminal */

tv_ort_status *tv_load_graph(const tv_ort *ort, const tv_ort_env *env, const void *graph, size_t bytes, int threads,
                             tv_ort_session **out);

#endif
