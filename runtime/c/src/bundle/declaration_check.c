#include "bundle/declaration_check.h"

#include <math.h>
#include <stdio.h>

#include "base/error.h"
#include "bundle/loop_check.h"

#define CANNOT_HINT "generate with textual_vision.runtime in Python, which runs all that a manifest declares"
#define NOISE_TENSORS_LIMIT 4096
#define NOISE_LIMIT_VALUES ((int64_t)1 << 26)
#define NOISE_RANK_LIMIT 6
#define SCALE_LIMIT 1e6
#define LABELS_LIMIT 65536
#define LABEL_LIMIT_CHARACTERS 200
#define LABEL_LIMIT_BYTES (4 * LABEL_LIMIT_CHARACTERS)
#define PARAMETERS_LIMIT 32

static int bad(const char *where, const char *problem)
{
    return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s: %s", where, problem);
}

static bool is_number(const tv_json *value)
{
    return value->kind == TV_JSON_INTEGER || value->kind == TV_JSON_NUMBER;
}

static bool is_absent(const tv_json *value)
{
    return value == NULL || value->kind == TV_JSON_NULL;
}

tv_text tv_noise_name(const tv_noise_spec *noise)
{
    return noise->name.data == NULL ? tv_text_of("noise") : noise->name;
}

size_t tv_noise_count(const tv_noise_spec *noise)
{
    const int64_t *sizes = noise->shape.items;
    size_t count = 1;
    for (size_t index = 0; index < noise->shape.count; index++)
        count *= (size_t)sizes[index];
    return count;
}

static int check_shape(const tv_noise_spec *noise, const char *where)
{
    const int64_t *sizes = noise->shape.items;
    int64_t values = 1;
    if (noise->shape.count == 0 || noise->shape.count > NOISE_RANK_LIMIT)
        return bad(where, "not one to six positive sizes");
    for (size_t index = 0; index < noise->shape.count; index++)
        if (sizes[index] < 1)
            return bad(where, "not one to six positive sizes");
    for (size_t index = 0; index < noise->shape.count; index++) {
        if (sizes[index] > NOISE_LIMIT_VALUES / values)
            return bad(where, "more than 67108864 values");
        values *= sizes[index];
    }
    return TV_OK;
}

static int check_noise(const tv_noise_spec *noise, size_t index)
{
    char where[64];
    bool truncated = tv_text_is(noise->law, "truncated_normal");
    snprintf(where, sizeof where, "manifest.noise[%zu].name", index);
    if (!tv_is_plain_name(tv_noise_name(noise)))
        return bad(where, "not a plain name");
    snprintf(where, sizeof where, "manifest.noise[%zu].law", index);
    if (noise->law.data != NULL && !truncated && !tv_text_is(noise->law, "normal") &&
        !tv_text_is(noise->law, "uniform") && !tv_text_is(noise->law, "gumbel"))
        return bad(where, "not one of normal, truncated_normal, uniform, gumbel");
    snprintf(where, sizeof where, "manifest.noise[%zu].shape", index);
    int status = check_shape(noise, where);
    if (status != TV_OK)
        return status;
    snprintf(where, sizeof where, "manifest.noise[%zu].scale", index);
    if (noise->scale != NULL && !(is_number(noise->scale) && noise->scale->number != 0.0 &&
                                  fabs(noise->scale->number) < SCALE_LIMIT))
        return bad(where, "not a sensible factor");
    snprintf(where, sizeof where, "manifest.noise[%zu].tail", index);
    if (is_absent(noise->tail) == truncated)
        return bad(where, "only a truncated_normal has one");
    if (!is_absent(noise->tail) && !(is_number(noise->tail) && noise->tail->number > 0 && noise->tail->number < 0.5))
        return bad(where, "not between 0 and 0.5");
    return TV_OK;
}

static int check_all_noise(const tv_manifest *manifest)
{
    const tv_noise_spec *noise = manifest->noise.items;
    if (manifest->noise.count > NOISE_TENSORS_LIMIT)
        return bad("manifest.noise", "more than 4096 tensors");
    for (size_t index = 0; index < manifest->noise.count; index++)
        for (size_t other = 0; other < index; other++)
            if (tv_text_equal(tv_noise_name(&noise[index]), tv_noise_name(&noise[other])))
                return bad("manifest.noise", "a name is given twice");
    for (size_t index = 0; index < manifest->noise.count; index++) {
        int status = check_noise(&noise[index], index);
        if (status != TV_OK)
            return status;
    }
    return TV_OK;
}

static int check_labels(const tv_label_spec *labels)
{
    const tv_text *names = labels == NULL ? NULL : labels->names.items;
    if (labels == NULL)
        return TV_OK;
    if (labels->names.count == 0 || labels->names.count > LABELS_LIMIT)
        return bad("manifest.labels.names", "not 1 to 65536 names");
    for (size_t index = 0; index < labels->names.count; index++) {
        char where[64];
        snprintf(where, sizeof where, "manifest.labels.names[%zu]", index);
        if (names[index].bytes == 0 || names[index].bytes > LABEL_LIMIT_BYTES || !tv_is_printable(names[index]))
            return bad(where, "empty, too long or not printable");
    }
    return TV_OK;
}

static int check_parameters(const tv_manifest *manifest)
{
    const tv_parameter_spec *parameters = manifest->parameters.items;
    if (manifest->parameters.count > PARAMETERS_LIMIT)
        return bad("manifest.parameters", "more than 32");
    for (size_t index = 0; index < manifest->parameters.count; index++) {
        const tv_parameter_spec *one = &parameters[index];
        char where[64];
        snprintf(where, sizeof where, "manifest.parameters[%zu]", index);
        for (size_t other = 0; other < index; other++)
            if (tv_text_equal(one->name, parameters[other].name))
                return bad("manifest.parameters", "a name is given twice");
        if (!(one->minimum <= one->initial && one->initial <= one->maximum))
            return bad(where, "minimum <= default <= maximum does not hold");
    }
    return TV_OK;
}

/* What Python runs and this library does not. */
static int check_able(const tv_manifest *manifest)
{
    const char *cannot = NULL;
    if (manifest->image.channels != NULL && manifest->image.channels->number != 3.0)
        cannot = "manifest.image.channels: this library makes pictures of 3 channels";
    else if (manifest->text != NULL && manifest->text->drop_unknown)
        cannot = "manifest.text.drop_unknown: this library keeps unknown words";
    return cannot == NULL ? TV_OK : tv_fail(TV_INTEGRITY, CANNOT_HINT, "%s", cannot);
}

int tv_declarations_check(const tv_manifest *manifest)
{
    int status = check_all_noise(manifest);
    if (status == TV_OK)
        status = check_labels(manifest->labels);
    if (status == TV_OK)
        status = check_parameters(manifest);
    if (status == TV_OK)
        status = tv_loops_check(manifest);
    if (status == TV_OK && manifest->text != NULL && manifest->labels != NULL)
        status = bad("manifest.labels", "a model is conditioned on text or on labels, not on both");
    return status == TV_OK ? check_able(manifest) : status;
}
