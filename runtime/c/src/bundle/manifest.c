#include "bundle/manifest.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bundle/manifest_check.h"

#define SCHEMA_VERSION 1
#define HUGE_VERSION ((int64_t)8 << 30)
#define FIELD(type, name, kind) {#name, offsetof(type, name), false, {kind, NULL, NULL}}
#define OPTIONAL(type, name, kind) {#name, offsetof(type, name), true, {kind, NULL, NULL}}
#define PART(type, name, record) {#name, offsetof(type, name), false, {TV_FIELD_RECORD, &record, NULL}}
#define MANY(type, name, kind, of) {#name, offsetof(type, name), false, {kind, NULL, &of}}
#define OPTIONAL_MANY(type, name, kind, of) {#name, offsetof(type, name), true, {kind, NULL, &of}}

static const tv_element text_element = {TV_FIELD_TEXT, NULL, NULL};
static const tv_element any_element = {TV_FIELD_ANY, NULL, NULL};
static const tv_element integer_element = {TV_FIELD_INTEGER, NULL, NULL};
static const tv_element size_element = {TV_FIELD_SIZE, NULL, NULL};

static const tv_field tensor_fields[] = {
    FIELD(tv_tensor_spec, name, TV_FIELD_TEXT),
    FIELD(tv_tensor_spec, dtype, TV_FIELD_TEXT),
    MANY(tv_tensor_spec, shape, TV_FIELD_LIST, size_element),
    OPTIONAL(tv_tensor_spec, limit, TV_FIELD_INTEGER_OR_NULL),
};
static const tv_record tensor_record = TV_RECORD(tensor_fields, tv_tensor_spec);
static const tv_element tensor_element = {TV_FIELD_RECORD, &tensor_record, NULL};

static const tv_field stage_fields[] = {
    FIELD(tv_stage_spec, name, TV_FIELD_TEXT),
    MANY(tv_stage_spec, inputs, TV_FIELD_LIST, tensor_element),
    MANY(tv_stage_spec, outputs, TV_FIELD_LIST, tensor_element),
};
static const tv_record stage_record = TV_RECORD(stage_fields, tv_stage_spec);
static const tv_element stage_element = {TV_FIELD_RECORD, &stage_record, NULL};

static const tv_field image_fields[] = {
    FIELD(tv_image_spec, height, TV_FIELD_INTEGER),
    FIELD(tv_image_spec, width, TV_FIELD_INTEGER),
    OPTIONAL(tv_image_spec, channels, TV_FIELD_ANY_INTEGER),
};
static const tv_record image_record = TV_RECORD(image_fields, tv_image_spec);

static const tv_field noise_fields[] = {
    OPTIONAL(tv_noise_spec, name, TV_FIELD_TEXT),
    MANY(tv_noise_spec, shape, TV_FIELD_LIST, integer_element),
    OPTIONAL(tv_noise_spec, recipe, TV_FIELD_TEXT),
    OPTIONAL(tv_noise_spec, law, TV_FIELD_TEXT),
    OPTIONAL(tv_noise_spec, scale, TV_FIELD_ANY_NUMBER),
    OPTIONAL(tv_noise_spec, tail, TV_FIELD_NUMBER_OR_NULL),
    OPTIONAL(tv_noise_spec, per_step, TV_FIELD_BOOLEAN),
};
static const tv_record noise_record = TV_RECORD(noise_fields, tv_noise_spec);
static const tv_element noise_element = {TV_FIELD_RECORD, &noise_record, NULL};

static const tv_field label_fields[] = {
    MANY(tv_label_spec, names, TV_FIELD_LIST, text_element),
};
static const tv_record label_record = TV_RECORD(label_fields, tv_label_spec);

static const tv_field parameter_fields[] = {
    FIELD(tv_parameter_spec, name, TV_FIELD_TEXT),
    {"default", offsetof(tv_parameter_spec, initial), false, {TV_FIELD_NUMBER, NULL, NULL}},
    FIELD(tv_parameter_spec, minimum, TV_FIELD_NUMBER),
    FIELD(tv_parameter_spec, maximum, TV_FIELD_NUMBER),
};
static const tv_record parameter_record = TV_RECORD(parameter_fields, tv_parameter_spec);
static const tv_element parameter_element = {TV_FIELD_RECORD, &parameter_record, NULL};

static const tv_field start_fields[] = {
    OPTIONAL(tv_start_spec, tensor, TV_FIELD_TEXT_OR_NULL),
    OPTIONAL(tv_start_spec, fill, TV_FIELD_NUMBER_OR_NULL),
};
static const tv_record start_record = TV_RECORD(start_fields, tv_start_spec);
static const tv_element start_element = {TV_FIELD_RECORD, &start_record, NULL};
static const tv_element number_element = {TV_FIELD_NUMBER, NULL, NULL};
static const tv_element table_element = {TV_FIELD_LIST, NULL, &number_element};

static const tv_field loop_fields[] = {
    FIELD(tv_loop_spec, name, TV_FIELD_TEXT),
    MANY(tv_loop_spec, stages, TV_FIELD_LIST, text_element),
    FIELD(tv_loop_spec, steps, TV_FIELD_INTEGER),
    MANY(tv_loop_spec, carry, TV_FIELD_MAP, text_element),
    MANY(tv_loop_spec, start, TV_FIELD_MAP, start_element),
    OPTIONAL_MANY(tv_loop_spec, tables, TV_FIELD_MAP, table_element),
};
static const tv_record loop_record = TV_RECORD(loop_fields, tv_loop_spec);
static const tv_element loop_element = {TV_FIELD_RECORD, &loop_record, NULL};

static const tv_field text_fields[] = {
    FIELD(tv_text_spec, tokenizer, TV_FIELD_TEXT),
    FIELD(tv_text_spec, max_tokens, TV_FIELD_INTEGER),
    FIELD(tv_text_spec, pad_id, TV_FIELD_INTEGER),
    FIELD(tv_text_spec, unknown_id, TV_FIELD_ID_OR_NULL),
    OPTIONAL(tv_text_spec, fixed_length, TV_FIELD_BOOLEAN),
    OPTIONAL(tv_text_spec, drop_unknown, TV_FIELD_BOOLEAN),
};
static const tv_record text_record = TV_RECORD(text_fields, tv_text_spec);

static const tv_field precision_fields[] = {
    MANY(tv_precision_spec, files, TV_FIELD_MAP, text_element),
    FIELD(tv_precision_spec, verdict, TV_FIELD_TEXT),
    OPTIONAL_MANY(tv_precision_spec, parity, TV_FIELD_MAP, any_element),
};
static const tv_record precision_record = TV_RECORD(precision_fields, tv_precision_spec);
static const tv_element precision_element = {TV_FIELD_RECORD, &precision_record, NULL};

static const tv_field batch_fields[] = {
    FIELD(tv_batch_profile, min, TV_FIELD_INTEGER),
    FIELD(tv_batch_profile, opt, TV_FIELD_INTEGER),
    FIELD(tv_batch_profile, max, TV_FIELD_INTEGER),
};
static const tv_record batch_record = TV_RECORD(batch_fields, tv_batch_profile);

static const tv_field engine_fields[] = {
    FIELD(tv_engine_spec, fingerprint, TV_FIELD_TEXT),
    FIELD(tv_engine_spec, precision, TV_FIELD_TEXT),
    MANY(tv_engine_spec, files, TV_FIELD_MAP, text_element),
};
static const tv_record engine_record = TV_RECORD(engine_fields, tv_engine_spec);
static const tv_element engine_element = {TV_FIELD_RECORD, &engine_record, NULL};

static const tv_field file_fields[] = {
    FIELD(tv_file_spec, sha256, TV_FIELD_TEXT),
    FIELD(tv_file_spec, bytes, TV_FIELD_INTEGER),
};
static const tv_record file_record = TV_RECORD(file_fields, tv_file_spec);
static const tv_element file_element = {TV_FIELD_RECORD, &file_record, NULL};

static const tv_field manifest_fields[] = {
    FIELD(tv_manifest, schema_version, TV_FIELD_INTEGER),
    FIELD(tv_manifest, name, TV_FIELD_TEXT),
    PART(tv_manifest, image, image_record),
    MANY(tv_manifest, noise, TV_FIELD_LIST, noise_element),
    MANY(tv_manifest, stages, TV_FIELD_LIST, stage_element),
    MANY(tv_manifest, precisions, TV_FIELD_MAP, precision_element),
    FIELD(tv_manifest, default_precision, TV_FIELD_TEXT),
    PART(tv_manifest, batch, batch_record),
    MANY(tv_manifest, files, TV_FIELD_MAP, file_element),
    FIELD(tv_manifest, license, TV_FIELD_TEXT),
    MANY(tv_manifest, provenance, TV_FIELD_MAP, text_element),
    {"text", offsetof(tv_manifest, text), true, {TV_FIELD_RECORD_OR_NULL, &text_record, NULL}},
    {"labels", offsetof(tv_manifest, labels), true, {TV_FIELD_RECORD_OR_NULL, &label_record, NULL}},
    OPTIONAL_MANY(tv_manifest, parameters, TV_FIELD_LIST, parameter_element),
    OPTIONAL_MANY(tv_manifest, loops, TV_FIELD_LIST, loop_element),
    {"merged", offsetof(tv_manifest, merged), true, {TV_FIELD_RECORD_OR_NULL, &stage_record, NULL}},
    OPTIONAL(tv_manifest, golden, TV_FIELD_TEXT_OR_NULL),
    OPTIONAL_MANY(tv_manifest, engines, TV_FIELD_LIST, engine_element),
    OPTIONAL_MANY(tv_manifest, warnings, TV_FIELD_LIST, text_element),
};
static const tv_record manifest_record = TV_RECORD(manifest_fields, tv_manifest);

static int check_version(const tv_json *value)
{
    const tv_json *version = tv_json_get(value, "schema_version");
    int64_t number;
    if (version == NULL || version->kind != TV_JSON_INTEGER)
        return TV_OK; /* an error that names the field follows */
    bool shown = tv_json_integer(version, -HUGE_VERSION + 1, HUGE_VERSION - 1, &number);
    if (shown && number == SCHEMA_VERSION)
        return TV_OK;
    const char *hint = version->text.data[0] == '-' || (shown && number < SCHEMA_VERSION)
                           ? TV_HINT_EXPORT
                           : "install a newer promptsprite";
    return tv_fail(TV_INTEGRITY, hint, "manifest.schema_version: this runtime reads %d, the bundle has %.*s",
                   SCHEMA_VERSION, shown ? (int)version->text.bytes : 13,
                   shown ? version->text.data : "a huge number");
}

static int sort_files(tv_arena *arena, tv_manifest *manifest)
{
    size_t count = manifest->files.count;
    manifest->listed = tv_arena_take(arena, count, sizeof *manifest->listed);
    if (manifest->listed == NULL)
        return tv_fail_memory();
    for (size_t index = 0; index < count; index++) {
        manifest->listed[index].path = tv_map_key(&manifest->files, sizeof(tv_file_spec), index);
        manifest->listed[index].spec = tv_map_value(&manifest->files, sizeof(tv_file_spec), index);
    }
    qsort(manifest->listed, count, sizeof *manifest->listed, tv_text_compare);
    return TV_OK;
}

int tv_manifest_parse(tv_arena *arena, char *data, size_t bytes, tv_manifest *manifest)
{
    int status;
    memset(manifest, 0, sizeof *manifest);
    const tv_json *value = tv_json_parse(arena, data, bytes, TV_MANIFEST_NAME, &status);
    if (status == TV_OK)
        status = check_version(value);
    if (status == TV_OK)
        status = tv_record_decode(arena, &manifest_record, value, "manifest", manifest);
    if (status == TV_OK)
        status = sort_files(arena, manifest);
    return status == TV_OK ? tv_manifest_check(arena, manifest) : status;
}

const tv_file_spec *tv_manifest_file(const tv_manifest *manifest, tv_text path)
{
    tv_listed_file key = {path, NULL};
    const tv_listed_file *found =
        path.data == NULL ? NULL
                          : bsearch(&key, manifest->listed, manifest->files.count, sizeof key, tv_text_compare);
    return found == NULL ? NULL : found->spec;
}

const tv_precision_spec *tv_manifest_precision(const tv_manifest *manifest, tv_text name)
{
    return tv_map_find(&manifest->precisions, sizeof(tv_precision_spec), name);
}

tv_text tv_stage_file(const tv_precision_spec *precision, tv_text stage)
{
    tv_text none = {NULL, 0};
    const tv_text *found = tv_map_find(&precision->files, sizeof(tv_text), stage);
    return found == NULL ? none : *found;
}
