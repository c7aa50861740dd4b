#include "draw/session_options.h"

#include <string.h>

typedef struct {
    const char *key, *value;
} entry;

/* Stages run in turn: threads of one that still wait busily would keep the next from its cores. */
static const entry stop_spinning = {"session.force_spinning_stop", "1"};

/* Without VNNI, an x86 processor adds two products of int8 in 16 bits, which overflows; this way is exact. */
static const entry exact_int8 = {"session.x64quantprecision", "1"};

/* That way cannot load a graph that multiplies by one int8 matrix twice; it is computed in float then. */
static const entry without_int8 = {"session.disable_quant_qdq", "1"};
#define MATRIX_TWICE "Attempt to replace the existing tensor"

static tv_ort_status *set(const tv_ort *ort, tv_ort_options *options, int threads, entry precision)
{
    tv_ort_status *status = ort->set_log_severity(options, TV_ORT_LOG_FATAL);
    if (status == NULL)
        status = ort->set_inter_threads(options, 1);
    if (status == NULL && threads > 0)
        status = ort->set_intra_threads(options, threads);
    if (status == NULL)
        status = ort->add_config_entry(options, stop_spinning.key, stop_spinning.value);
    return status == NULL ? ort->add_config_entry(options, precision.key, precision.value) : status;
}

static tv_ort_status *load(const tv_ort *ort, const tv_ort_env *env, const void *graph, size_t bytes, int threads,
                           entry precision, tv_ort_session **out)
{
    tv_ort_options *options = NULL;
    tv_ort_status *status = ort->create_options(&options);
    if (status == NULL)
        status = set(ort, options, threads, precision);
    if (status == NULL)
        status = ort->create_session(env, graph, bytes, options, out);
    if (options != NULL)
        ort->release_options(options);
    return status;
}

tv_ort_status *tv_load_graph(const tv_ort *ort, const tv_ort_env *env, const void *graph, size_t bytes, int threads,
                             tv_ort_session **out)
{
    tv_ort_status *status = load(ort, env, graph, bytes, threads, exact_int8, out);
    if (status == NULL || strstr(ort->get_error_message(status), MATRIX_TWICE) == NULL)
        return status;
    ort->release_status(status);
    return load(ort, env, graph, bytes, threads, without_int8, out);
}
