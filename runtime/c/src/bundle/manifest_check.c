#include "bundle/manifest_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "bundle/declaration_check.h"

#define SIZE_LIMIT ((int64_t)1 << 20) /* no dimension of a tensor, picture or batch is larger */
#define ITEMS_LIMIT 64 /* stages, tensors of one, precisions, engines: not limited in Python */
#define NAME_LIMIT 100
#define ID_LIMIT ((int64_t)1 << 31) /* no table has more rows */
#define PATH_PARTS_LIMIT 10
#define WHERE_BYTES 640

static int bad(const char *where, const char *problem)
{
    return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s: %s", where, problem);
}

static bool is_letter(char c, bool first)
{
    bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    return plain || (!first && (c == '.' || c == '+' || c == '-'));
}

/* A letter, digit or _ of ASCII, then at most 99 of them or . + - */
bool tv_is_plain_name(tv_text text)
{
    for (size_t place = 0; place < text.bytes; place++)
        if (!is_letter(text.data[place], place == 0))
            return false;
    return text.bytes >= 1 && text.bytes <= NAME_LIMIT;
}

/* One to ten plain names with / between them. */
static bool is_plain_path(tv_text path)
{
    size_t start = 0, parts = 0;
    for (size_t place = 0; place <= path.bytes; place++) {
        if (place < path.bytes && path.data[place] != '/')
            continue;
        tv_text part = {path.data + start, place - start};
        if (!tv_is_plain_name(part) || ++parts > PATH_PARTS_LIMIT)
            return false;
        start = place + 1;
    }
    return true;
}

static bool is_digest(tv_text text)
{
    for (size_t place = 0; place < text.bytes; place++)
        if (!((text.data[place] >= '0' && text.data[place] <= '9') ||
              (text.data[place] >= 'a' && text.data[place] <= 'f')))
            return false;
    return text.bytes == 64;
}

static bool is_one_of(tv_text text, const char *const *names)
{
    for (; *names != NULL; names++)
        if (tv_text_is(text, *names))
            return true;
    return false;
}

static int check_sizes(const tv_manifest *manifest)
{
    static const tv_text_spec no_text = {{NULL, 0}, 1, 0, 0, false, false};
    const tv_text_spec *text = manifest->text == NULL ? &no_text : manifest->text;
    const tv_batch_profile *batch = &manifest->batch;
    const struct {
        const char *name;
        int64_t value, low;
    } sizes[] = {
        {"image.height", manifest->image.height, 1}, {"image.width", manifest->image.width, 1},
        {"text.max_tokens", text->max_tokens, 1},
        {"text.pad_id", text->pad_id, 0},            {"text.unknown_id", text->unknown_id == TV_NO_ID ? 0 : text->unknown_id, 0},
        {"batch.min", batch->min, 1},                {"batch.opt", batch->opt, 1},
        {"batch.max", batch->max, 1},
    };
    for (size_t index = 0; index < TV_COUNT_OF(sizes); index++)
        if (sizes[index].value < sizes[index].low || sizes[index].value > SIZE_LIMIT)
            return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "manifest.%s: not between %d and %d", sizes[index].name,
                           (int)sizes[index].low, (int)SIZE_LIMIT);
    int64_t channels;
    if (manifest->image.channels != NULL && !tv_json_integer(manifest->image.channels, 1, SIZE_LIMIT, &channels))
        return bad("manifest.image.channels", "not between 1 and 1048576");
    if (batch->min > batch->opt || batch->opt > batch->max)
        return bad("manifest.batch", "min <= opt <= max does not hold");
    return TV_OK;
}

/* By the end of a file's name, as in Python. */
static int64_t size_limit(tv_text path)
{
    static const struct {
        const char *suffix;
        int64_t bytes;
    } limits[] = {
        {".json", (int64_t)16 << 20}, {".onnx", ((int64_t)1 << 31) - 1}, {".plan", (int64_t)8 << 30}, {".png", (int64_t)64 << 20}};
    for (size_t index = 0; index < TV_COUNT_OF(limits); index++) {
        size_t length = strlen(limits[index].suffix);
        tv_text end = {path.data + path.bytes - length, length};
        if (path.bytes > length && tv_text_is(end, limits[index].suffix))
            return limits[index].bytes;
    }
    return (int64_t)256 << 20;
}

static int check_file(tv_text path, const tv_file_spec *spec)
{
    char quoted[TV_SHOWN_BYTES], where[WHERE_BYTES];
    snprintf(where, sizeof where, "manifest.files.%s", tv_quoted(path, false, quoted));
    if (!is_plain_path(path))
        return bad(where, "not a relative path of plain names inside the bundle");
    if (tv_text_is(path, TV_MANIFEST_NAME))
        return bad(where, "the manifest cannot list itself");
    strncat(where, is_digest(spec->sha256) ? ".bytes" : ".sha256", sizeof where - strlen(where) - 1);
    if (!is_digest(spec->sha256))
        return bad(where, "not 64 lower-case hexadecimal digits");
    int64_t limit = size_limit(path);
    if (spec->bytes < 0 || spec->bytes > limit)
        return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s: not between 0 and %lld", where, (long long)limit);
    return TV_OK;
}

/* A disk that takes upper for lower case must not mix two files up. */
static int check_case(tv_arena *arena, const tv_manifest *manifest)
{
    size_t count = manifest->files.count;
    tv_text *folded = tv_arena_take(arena, count, sizeof *folded);
    if (folded == NULL)
        return tv_fail_memory();
    for (size_t index = 0; index < count; index++) {
        tv_text path = manifest->listed[index].path;
        char *copy = tv_arena_take(arena, path.bytes, 1);
        if (copy == NULL)
            return tv_fail_memory();
        for (size_t place = 0; place < path.bytes; place++) {
            char c = path.data[place];
            copy[place] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
        }
        folded[index].data = copy;
        folded[index].bytes = path.bytes;
    }
    qsort(folded, count, sizeof *folded, tv_text_compare);
    for (size_t index = 1; index < count; index++)
        if (tv_text_equal(folded[index - 1], folded[index]))
            return bad("manifest.files", "two paths differ only in upper and lower case");
    return TV_OK;
}

static int check_files(tv_arena *arena, const tv_manifest *manifest)
{
    for (size_t index = 0; index < manifest->files.count; index++) {
        int status = check_file(tv_map_key(&manifest->files, sizeof(tv_file_spec), index),
                                tv_map_value(&manifest->files, sizeof(tv_file_spec), index));
        if (status != TV_OK)
            return status;
    }
    int status = check_case(arena, manifest);
    if (status != TV_OK)
        return status;
    if (manifest->text != NULL && tv_manifest_file(manifest, manifest->text->tokenizer) == NULL)
        return bad("manifest.text.tokenizer", "not among manifest.files");
    if (manifest->golden.data != NULL && tv_manifest_file(manifest, manifest->golden) == NULL)
        return bad("manifest.golden", "not among manifest.files");
    return TV_OK;
}

static int check_tensor(const tv_tensor_spec *tensor, const char *side)
{
    static const char *const dtypes[] = {"float32", "float16", "int64", "int32", "uint8", "int8", "bool", NULL};
    static const char *const integers[] = {"int64", "int32", "uint8", "int8", NULL};
    int64_t limit;
    char quoted[TV_SHOWN_BYTES], where[2 * WHERE_BYTES];
    int used = snprintf(where, sizeof where, "%s.%s", side, tv_quoted(tensor->name, false, quoted));
    if (!tv_is_plain_name(tensor->name))
        return bad(where, "not a plain name");
    snprintf(where + used, sizeof where - (size_t)used, ".dtype");
    if (!is_one_of(tensor->dtype, dtypes))
        return bad(where, "not one of float32, float16, int64, int32, uint8, int8, bool");
    snprintf(where + used, sizeof where - (size_t)used, ".limit");
    if (tensor->limit != NULL && tensor->limit->kind != TV_JSON_NULL) {
        if (!is_one_of(tensor->dtype, integers))
            return bad(where, "only integers have one");
        if (!tv_json_integer(tensor->limit, 1, ID_LIMIT, &limit))
            return bad(where, "not between 1 and 2147483648");
    }
    snprintf(where + used, sizeof where - (size_t)used, ".shape");
    const tv_size *sizes = tensor->shape.items;
    if (tensor->shape.count > TV_MAX_RANK)
        return bad(where, "more than 8 dimensions");
    for (size_t index = 0; index < tensor->shape.count; index++) {
        int64_t number = sizes[index].number;
        bool good = sizes[index].name.data != NULL ? tv_is_plain_name(sizes[index].name)
                                                   : number >= 1 && number <= SIZE_LIMIT;
        if (!good)
            return bad(where, "a size is neither a name nor a sensible number");
    }
    return TV_OK;
}

static int check_tensors(const tv_list *list, const char *stage, const char *side_name)
{
    char where[WHERE_BYTES];
    const tv_tensor_spec *tensors = list->items;
    snprintf(where, sizeof where, "%s.%s", stage, side_name);
    if (list->count == 0 || list->count > ITEMS_LIMIT)
        return bad(where, list->count == 0 ? "empty" : "more than 64");
    for (size_t index = 0; index < list->count; index++)
        for (size_t other = 0; other < index; other++)
            if (tv_text_equal(tensors[index].name, tensors[other].name))
                return bad(where, "a name is given twice");
    for (size_t index = 0; index < list->count; index++) {
        int status = check_tensor(&tensors[index], where);
        if (status != TV_OK)
            return status;
    }
    return TV_OK;
}

/* Stage `index` in running order, and after them the merged one; NULL after the last. */
static const tv_stage_spec *stage_at(const tv_manifest *manifest, size_t index)
{
    const tv_stage_spec *stages = manifest->stages.items;
    return index < manifest->stages.count ? &stages[index]
           : index == manifest->stages.count ? manifest->merged
                                             : NULL;
}

static const tv_stage_spec *stage_named(const tv_manifest *manifest, tv_text name, size_t limit)
{
    const tv_stage_spec *stage;
    for (size_t index = 0; index < limit && (stage = stage_at(manifest, index)) != NULL; index++)
        if (tv_text_equal(stage->name, name))
            return stage;
    return NULL;
}

static int check_stages(const tv_manifest *manifest)
{
    const tv_stage_spec *stage;
    if (manifest->stages.count == 0 || manifest->stages.count > ITEMS_LIMIT)
        return bad("manifest.stages", manifest->stages.count == 0 ? "empty" : "more than 64");
    for (size_t index = 0; (stage = stage_at(manifest, index)) != NULL; index++)
        if (stage_named(manifest, stage->name, index) != NULL)
            return bad("manifest.stages", "two stages have the same name");
    for (size_t index = 0; (stage = stage_at(manifest, index)) != NULL; index++) {
        char quoted[TV_SHOWN_BYTES], where[WHERE_BYTES];
        snprintf(where, sizeof where, "manifest.stages.%s", tv_quoted(stage->name, false, quoted));
        if (!tv_is_plain_name(stage->name))
            return bad(where, "not a plain name");
        int status = check_tensors(&stage->inputs, where, "inputs");
        if (status == TV_OK)
            status = check_tensors(&stage->outputs, where, "outputs");
        if (status != TV_OK)
            return status;
    }
    return TV_OK;
}

static int check_stage_files(const tv_manifest *manifest, const tv_list *files, const char *where)
{
    char quoted[TV_SHOWN_BYTES];
    const tv_stage_spec *stages = manifest->stages.items;
    for (size_t index = 0; index < manifest->stages.count; index++)
        if (tv_map_find(files, sizeof(tv_text), stages[index].name) == NULL)
            return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s: no file for the stage %s", where,
                           tv_quoted(stages[index].name, true, quoted));
    for (size_t index = 0; index < files->count; index++) {
        tv_text stage = tv_map_key(files, sizeof(tv_text), index);
        if (stage_named(manifest, stage, ITEMS_LIMIT + 1) == NULL)
            return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s.%s: no such stage", where,
                           tv_quoted(stage, false, quoted));
        const tv_text *path = tv_map_value(files, sizeof(tv_text), index);
        if (tv_manifest_file(manifest, *path) == NULL)
            return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s.%.*s: not among manifest.files", where,
                           (int)stage.bytes, stage.data);
    }
    return TV_OK;
}

static int check_precisions(const tv_manifest *manifest)
{
    static const char *const verdicts[] = {"pass", "fail", "unchecked", NULL};
    if (tv_manifest_precision(manifest, manifest->default_precision) == NULL)
        return bad("manifest.default_precision", "not among manifest.precisions");
    if (manifest->precisions.count > ITEMS_LIMIT)
        return bad("manifest.precisions", "more than 64");
    for (size_t index = 0; index < manifest->precisions.count; index++) {
        tv_text name = tv_map_key(&manifest->precisions, sizeof(tv_precision_spec), index);
        const tv_precision_spec *precision = tv_map_value(&manifest->precisions, sizeof(tv_precision_spec), index);
        char quoted[TV_SHOWN_BYTES], where[WHERE_BYTES];
        int used = snprintf(where, sizeof where, "manifest.precisions.%s", tv_quoted(name, false, quoted));
        if (!tv_is_plain_name(name))
            return bad(where, "not a plain name");
        snprintf(where + used, sizeof where - (size_t)used, ".verdict");
        if (!is_one_of(precision->verdict, verdicts))
            return bad(where, "not one of pass, fail, unchecked");
        snprintf(where + used, sizeof where - (size_t)used, ".files");
        int status = check_stage_files(manifest, &precision->files, where);
        if (status != TV_OK)
            return status;
    }
    return TV_OK;
}

static int check_printable(tv_text text)
{
    char quoted[TV_SHOWN_BYTES];
    if (tv_is_printable(text))
        return TV_OK;
    return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "manifest: %s has characters that cannot be printed",
                   tv_quoted(text, false, quoted));
}

static int check_texts(const tv_manifest *manifest)
{
    const tv_text *warnings = manifest->warnings.items;
    int status = check_printable(manifest->name);
    if (status == TV_OK)
        status = check_printable(manifest->license);
    for (size_t index = 0; index < manifest->warnings.count && status == TV_OK; index++)
        status = check_printable(warnings[index]);
    for (size_t index = 0; index < manifest->provenance.count && status == TV_OK; index++) {
        status = check_printable(tv_map_key(&manifest->provenance, sizeof(tv_text), index));
        if (status == TV_OK)
            status = check_printable(*(const tv_text *)tv_map_value(&manifest->provenance, sizeof(tv_text), index));
    }
    return status;
}

static int check_engines(const tv_manifest *manifest)
{
    const tv_engine_spec *engines = manifest->engines.items;
    if (manifest->engines.count > ITEMS_LIMIT)
        return bad("manifest.engines", "more than 64");
    for (size_t index = 0; index < manifest->engines.count; index++) {
        char where[WHERE_BYTES];
        int used = snprintf(where, sizeof where, "manifest.engines[%zu]", index);
        snprintf(where + used, sizeof where - (size_t)used, ".fingerprint");
        if (!tv_is_plain_name(engines[index].fingerprint))
            return bad(where, "not a plain name");
        snprintf(where + used, sizeof where - (size_t)used, ".precision");
        if (tv_manifest_precision(manifest, engines[index].precision) == NULL)
            return bad(where, "no such precision");
        snprintf(where + used, sizeof where - (size_t)used, ".files");
        int status = check_stage_files(manifest, &engines[index].files, where);
        if (status != TV_OK)
            return status;
    }
    return TV_OK;
}

int tv_manifest_check(tv_arena *arena, const tv_manifest *manifest)
{
    int status = check_sizes(manifest);
    if (status == TV_OK)
        status = check_files(arena, manifest);
    if (status == TV_OK)
        status = check_stages(manifest);
    if (status == TV_OK)
        status = check_precisions(manifest);
    if (status == TV_OK)
        status = check_texts(manifest);
    if (status == TV_OK)
        status = tv_declarations_check(manifest);
    return status == TV_OK ? check_engines(manifest) : status;
}
