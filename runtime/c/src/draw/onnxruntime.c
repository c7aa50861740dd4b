#include "draw/onnxruntime.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"

#define API_VERSION 20 /* of ONNX Runtime 1.20, the oldest that Python's runtime takes too */
#define INSTALL_HINT                                                                                             \
    "give the path of libonnxruntime: tv_options.onnxruntime, or the environment variable TV_ONNXRUNTIME; "     \
    "`pip install onnxruntime` and `npm install onnxruntime-node` bring one"

typedef void (*any_function)(void);

/* What OrtGetApiBase returns: the only thing that has a name in the library. */
typedef struct {
    const any_function *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
} api_base;

#define PLACE(index, name) {index, offsetof(tv_ort, name)}

static const struct {
    size_t index, offset;
} places[] = {
    PLACE(2, get_error_message),  PLACE(3, create_env),         PLACE(8, create_session),
    PLACE(9, run),                PLACE(10, create_options),    PLACE(22, set_log_severity),
    PLACE(24, set_intra_threads), PLACE(25, set_inter_threads), PLACE(30, get_input_count),
    PLACE(31, get_output_count),  PLACE(36, get_input_name),    PLACE(37, get_output_name),
    PLACE(49, create_tensor),     PLACE(50, is_tensor),         PLACE(51, get_data),
    PLACE(60, get_type),          PLACE(61, get_rank),          PLACE(62, get_sizes),
    PLACE(65, get_shape),         PLACE(69, create_cpu_memory), PLACE(76, allocator_free),
    PLACE(78, get_allocator),     PLACE(92, release_env),       PLACE(93, release_status),
    PLACE(94, release_memory),    PLACE(95, release_session),   PLACE(96, release_value),
    PLACE(99, release_shape),     PLACE(100, release_options),  PLACE(130, add_config_entry),
};

static void *open_library(const char *path)
{
    static const char *const names[] = {
#ifdef __APPLE__
        "libonnxruntime.dylib", "@rpath/libonnxruntime.dylib",
#else
        "libonnxruntime.so.1", "libonnxruntime.so",
#endif
    };
    void *library = NULL;
    if (path != NULL)
        return dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (size_t index = 0; index < sizeof names / sizeof names[0] && library == NULL; index++)
        library = dlopen(names[index], RTLD_NOW | RTLD_LOCAL);
    return library;
}

int tv_ort_load(tv_ort *ort, const char *path)
{
    if (path == NULL)
        path = getenv("TV_ONNXRUNTIME");
    void *library = open_library(path);
    if (library == NULL)
        return tv_fail(TV_BACKEND_MISSING, INSTALL_HINT, "ONNX Runtime cannot be loaded: %s", dlerror());
    void *symbol = dlsym(library, "OrtGetApiBase");
    const api_base *(*get_base)(void);
    memcpy(&get_base, &symbol, sizeof get_base); /* ISO C has no cast from an object to a function */
    const api_base *base = symbol == NULL ? NULL : get_base();
    if (base == NULL)
        return tv_fail(TV_BACKEND_MISSING, INSTALL_HINT, "%s is not ONNX Runtime: it has no OrtGetApiBase",
                       path == NULL ? "libonnxruntime" : path);
    ort->version = base->get_version();
    const any_function *functions = base->get_api(API_VERSION);
    if (functions == NULL)
        return tv_fail(TV_BACKEND_MISSING, "install ONNX Runtime 1.20 or newer",
                       "ONNX Runtime %s is too old: it has no version %d of its C API", ort->version, API_VERSION);
    for (size_t index = 0; index < sizeof places / sizeof places[0]; index++)
        memcpy((char *)ort + places[index].offset, &functions[places[index].index], sizeof(any_function));
    return TV_OK;
}

void tv_ort_message(const tv_ort *ort, tv_ort_status *status, char *out, size_t room)
{
    const char *text = ort->get_error_message(status);
    text += strspn(text, " \t\r\n");
    tv_text line = {text, strcspn(text, "\r\n")};
    tv_printable(line, out, room); /* a graph's names may be in it, which a stranger chose */
    ort->release_status(status);
}
