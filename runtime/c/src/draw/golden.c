#include "draw/golden.h"

#include <string.h>

#include "base/error.h"

#define SCHEMA_VERSION 1
#define FIELD(type, name, kind) {#name, offsetof(type, name), false, {kind, NULL, NULL}}
#define MANY(type, name, kind, of) {#name, offsetof(type, name), false, {kind, NULL, &of}}

static const tv_element text_element = {TV_FIELD_TEXT, NULL, NULL};
static const tv_element code_element = {TV_FIELD_INTEGER, NULL, NULL};
static const tv_element row_element = {TV_FIELD_LIST, NULL, &code_element};

static const tv_field picture_fields[] = {
    FIELD(tv_golden_picture, prompt, TV_FIELD_TEXT),
    FIELD(tv_golden_picture, seed, TV_FIELD_UNSIGNED),
    MANY(tv_golden_picture, noise_bits, TV_FIELD_LIST, text_element),
    MANY(tv_golden_picture, codes, TV_FIELD_LIST, row_element),
    FIELD(tv_golden_picture, picture, TV_FIELD_TEXT),
};
static const tv_record picture_record = TV_RECORD(picture_fields, tv_golden_picture);
static const tv_element picture_element = {TV_FIELD_RECORD, &picture_record, NULL};

static const tv_field budget_fields[] = {
    FIELD(tv_golden_budget, code_agreement, TV_FIELD_NUMBER),
    FIELD(tv_golden_budget, psnr_db, TV_FIELD_NUMBER),
};
static const tv_record budget_record = TV_RECORD(budget_fields, tv_golden_budget);
static const tv_element budget_element = {TV_FIELD_RECORD, &budget_record, NULL};

static const tv_field golden_fields[] = {
    FIELD(tv_golden, schema_version, TV_FIELD_INTEGER),
    MANY(tv_golden, pictures, TV_FIELD_LIST, picture_element),
    MANY(tv_golden, budgets, TV_FIELD_MAP, budget_element),
};
static const tv_record golden_record = TV_RECORD(golden_fields, tv_golden);

static bool is_grid(const tv_list *codes)
{
    const tv_list *rows = codes->items;
    for (size_t index = 0; index < codes->count; index++)
        if (rows[index].count != rows[0].count)
            return false;
    return true;
}

static int check(const tv_golden *golden, tv_text name)
{
    const tv_golden_picture *pictures = golden->pictures.items;
    if (golden->schema_version != SCHEMA_VERSION || golden->pictures.count == 0)
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: an unknown schema, or no pictures", (int)name.bytes,
                       name.data);
    for (size_t index = 0; index < golden->pictures.count; index++)
        if (!is_grid(&pictures[index].codes))
            return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: pictures[%zu] has no grid of codes", (int)name.bytes,
                           name.data, index);
    return TV_OK;
}

int tv_golden_read(const tv_bundle *bundle, tv_arena *arena, tv_golden *golden, char **text)
{
    size_t bytes;
    tv_text name = bundle->manifest.golden;
    memset(golden, 0, sizeof *golden);
    *text = NULL;
    if (name.data == NULL)
        return tv_fail(TV_USAGE, "export it again, with golden pictures", "the bundle has no golden pictures");
    int status = tv_bundle_read(bundle, name, TV_TEXT_LIMIT_BYTES, text, &bytes);
    if (status != TV_OK)
        return status;
    const tv_json *value = tv_json_parse(arena, *text, bytes, "golden.json", &status);
    if (status == TV_OK)
        status = tv_record_decode(arena, &golden_record, value, "golden", golden);
    return status == TV_OK ? check(golden, name) : status;
}
