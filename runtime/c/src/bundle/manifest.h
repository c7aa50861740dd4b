/*
 * manifest.json: everything that the runtime must know about a bundle.
 *
 * Read as strictly as textual_vision.runtime.manifest does, with the same messages: an unknown schema, an unknown or
 * missing field, a wrong type, a path that is absolute or leaves the bundle, a file that is named but not declared.
 */
#ifndef TV_MANIFEST_H
#define TV_MANIFEST_H

#include "bundle/record.h"

#define TV_MANIFEST_NAME "manifest.json"
#define TV_MANIFEST_LIMIT_BYTES ((int64_t)4 << 20)
#define TV_MAX_RANK 8

typedef struct {
    tv_text name, dtype;
    tv_list shape; /* of tv_size; a text names a dimension that varies */
    const tv_json *limit; /* integers are below it; NULL or null when there is none */
} tv_tensor_spec;

typedef struct {
    tv_text name;
    tv_list inputs, outputs; /* of tv_tensor_spec */
} tv_stage_spec;

typedef struct {
    int64_t height, width;
    const tv_json *channels; /* NULL: 3 */
} tv_image_spec;

typedef struct {
    tv_text name; /* data NULL: "noise" */
    tv_list shape; /* of int64_t */
    tv_text recipe, law; /* data NULL: the usual */
    const tv_json *scale, *tail; /* NULL: 1, none */
    bool per_step;
} tv_noise_spec;

typedef struct {
    tv_list names; /* of tv_text */
} tv_label_spec;

typedef struct {
    tv_text name;
    double initial, minimum, maximum; /* initial: its default */
} tv_parameter_spec;

/* A carried tensor before the first step: another tensor, or a number everywhere. */
typedef struct {
    tv_text tensor;      /* data NULL when there is none */
    const tv_json *fill; /* NULL or null when there is none */
} tv_start_spec;

/* Neighboring stages that run `steps` times. */
typedef struct {
    tv_text name;
    tv_list stages; /* of tv_text */
    int64_t steps;
    tv_list carry;  /* map of tv_text: an input, and the output that takes its place at the next step */
    tv_list start;  /* map of tv_start_spec, by the same inputs */
    tv_list tables; /* map of tv_list of double: an input's value at each step */
} tv_loop_spec;

typedef struct {
    tv_text tokenizer;
    int64_t max_tokens, pad_id, unknown_id; /* unknown_id is TV_NO_ID for null */
    bool fixed_length, drop_unknown;
} tv_text_spec;

typedef struct {
    tv_list files; /* map of tv_text: stage to path */
    tv_text verdict;
    tv_list parity; /* map of const tv_json *: what comparing with the source gave */
} tv_precision_spec;

typedef struct {
    int64_t min, opt, max;
} tv_batch_profile;

typedef struct {
    tv_text fingerprint, precision;
    tv_list files; /* map of tv_text */
} tv_engine_spec;

typedef struct {
    tv_text sha256;
    int64_t bytes;
} tv_file_spec;

typedef struct {
    tv_text path; /* first: sorted and found by tv_text_compare */
    const tv_file_spec *spec;
} tv_listed_file;

typedef struct {
    int64_t schema_version;
    tv_text name;
    tv_image_spec image;
    tv_list noise; /* of tv_noise_spec */
    tv_text_spec *text; /* NULL for a model that takes no prompt */
    tv_label_spec *labels; /* NULL for a model that takes no label */
    tv_list parameters; /* of tv_parameter_spec */
    tv_list loops; /* of tv_loop_spec */
    tv_list stages;     /* of tv_stage_spec, in running order */
    tv_list precisions; /* map of tv_precision_spec */
    tv_text default_precision;
    tv_batch_profile batch;
    tv_list files; /* map of tv_file_spec: every file of the bundle but manifest.json */
    tv_text license;
    tv_list provenance; /* map of tv_text */
    tv_stage_spec *merged;
    tv_text golden; /* data NULL when there is none */
    tv_list engines;  /* of tv_engine_spec */
    tv_list warnings; /* of tv_text */
    tv_listed_file *listed; /* `files`, sorted by path */
} tv_manifest;

/* Parse and check; `data` is overwritten and must live as long as the manifest. TV_INTEGRITY, TV_FAILED. */
int tv_manifest_parse(tv_arena *arena, char *data, size_t bytes, tv_manifest *manifest);

/* What the listed file must be; NULL when it is not listed. */
const tv_file_spec *tv_manifest_file(const tv_manifest *manifest, tv_text path);

const tv_precision_spec *tv_manifest_precision(const tv_manifest *manifest, tv_text name);

/* The path of a stage's graph in one precision; data NULL when there is none. */
tv_text tv_stage_file(const tv_precision_spec *precision, tv_text stage);

/* A letter, digit or _ of ASCII, then at most 99 of them or . + - */
bool tv_is_plain_name(tv_text text);

#endif
