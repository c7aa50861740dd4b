#include "draw/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

typedef struct {
    tv_text *names;
    size_t count;
} name_set;

static bool has(const name_set *set, tv_text name)
{
    for (size_t index = 0; index < set->count; index++)
        if (tv_text_equal(set->names[index], name))
            return true;
    return false;
}

static void add(name_set *set, const char *name)
{
    set->names[set->count++] = tv_text_of(name);
}

static bool is_prompt_tensor(tv_text name)
{
    return tv_text_is(name, TV_INPUT_IDS) || tv_text_is(name, TV_ATTENTION_MASK);
}

/* The first input, in order of names, that no set has; data NULL when there is none. */
static tv_text missing_input(const tv_stage_spec *stage, const name_set *first, const name_set *second)
{
    tv_text missing = {NULL, 0};
    const tv_tensor_spec *inputs = stage->inputs.items;
    for (size_t index = 0; index < stage->inputs.count; index++) {
        tv_text name = inputs[index].name;
        if (!has(first, name) && !has(second, name) &&
            (missing.data == NULL || tv_text_compare(&name, &missing) < 0))
            missing = name;
    }
    return missing;
}

static int split(const tv_manifest *manifest, name_set *by_prompt, name_set *by_picture, bool *alone)
{
    static const name_set none = {NULL, 0};
    const tv_stage_spec *stages = manifest->stages.items;
    for (size_t index = 0; index < manifest->stages.count; index++) {
        const tv_stage_spec *stage = &stages[index];
        tv_text missing = missing_input(stage, by_prompt, by_picture);
        if (missing.data != NULL)
            return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT,
                           "manifest.stages: '%.*s' needs '%.*s', which no stage before it gives",
                           (int)stage->name.bytes, stage->name.data, (int)missing.bytes, missing.data);
        alone[index] = missing_input(stage, by_prompt, &none).data == NULL;
        name_set *into = alone[index] ? by_prompt : by_picture;
        const tv_tensor_spec *outputs = stage->outputs.items;
        for (size_t place = 0; place < stage->outputs.count; place++)
            into->names[into->count++] = outputs[place].name;
    }
    const char *needed[] = {TV_CODES, TV_IMAGE};
    for (size_t index = 0; index < TV_COUNT_OF(needed); index++)
        if (!has(by_picture, tv_text_of(needed[index])))
            return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "manifest.stages: no stage gives '%s' from prompt and noise",
                           needed[index]);
    return TV_OK;
}

/* A number of tokens in a shape must be the one that every prompt is padded to. */
static int check_tokens(const tv_text_spec *text, const tv_stage_spec *stage, const tv_tensor_spec *input)
{
    const tv_size *sizes = input->shape.items;
    if (!is_prompt_tensor(input->name) || input->shape.count != 2 || sizes[1].name.data != NULL ||
        (text->fixed && sizes[1].number == text->max_tokens))
        return TV_OK;
    char length[32];
    snprintf(length, sizeof length, "is %lld", (long long)text->max_tokens);
    return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "manifest.stages: '%.*s' takes %lld tokens, the text's length %s",
                   (int)stage->name.bytes, stage->name.data, (long long)sizes[1].number,
                   text->fixed ? length : "varies");
}

/* What the runtime itself makes has one type and one rank. */
static int check_made_here(const tv_manifest *manifest, const tv_stage_spec *stage, const tv_tensor_spec *input)
{
    bool noise = tv_text_is(input->name, TV_NOISE);
    const tv_size *sizes = input->shape.items;
    const char *dtype = noise ? "float32" : "int64";
    if (!noise && !is_prompt_tensor(input->name))
        return TV_OK;
    if (noise && (input->shape.count != 2 || sizes[1].name.data != NULL || sizes[1].number != manifest->noise.dim))
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "manifest.noise.dim: %lld, but '%.*s' takes another shape",
                       (long long)manifest->noise.dim, (int)stage->name.bytes, stage->name.data);
    if (!tv_text_is(input->dtype, dtype) || input->shape.count != 2)
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "manifest.stages: '%.*s' takes '%.*s' not as %s of two dimensions",
                       (int)stage->name.bytes, stage->name.data, (int)input->name.bytes, input->name.data, dtype);
    return check_tokens(&manifest->text, stage, input);
}

static int check_inputs(const tv_manifest *manifest)
{
    const tv_stage_spec *stages = manifest->stages.items;
    for (size_t index = 0; index < manifest->stages.count; index++) {
        const tv_tensor_spec *inputs = stages[index].inputs.items;
        for (size_t place = 0; place < stages[index].inputs.count; place++) {
            int status = check_made_here(manifest, &stages[index], &inputs[place]);
            if (status != TV_OK)
                return status;
        }
    }
    return TV_OK;
}

int tv_plan_make(tv_arena *arena, const tv_manifest *manifest, bool **by_prompt)
{
    const tv_stage_spec *stages = manifest->stages.items;
    size_t names = 3; /* ids, mask and noise */
    for (size_t index = 0; index < manifest->stages.count; index++)
        names += stages[index].outputs.count;
    name_set prompt_names = {tv_arena_take(arena, names, sizeof(tv_text)), 0};
    name_set picture_names = {tv_arena_take(arena, names, sizeof(tv_text)), 0};
    *by_prompt = tv_arena_take(arena, manifest->stages.count, sizeof **by_prompt);
    if (prompt_names.names == NULL || picture_names.names == NULL || *by_prompt == NULL)
        return tv_fail_memory();
    add(&prompt_names, TV_INPUT_IDS);
    add(&prompt_names, TV_ATTENTION_MASK);
    add(&picture_names, TV_NOISE);
    int status = split(manifest, &prompt_names, &picture_names, *by_prompt);
    return status == TV_OK ? check_inputs(manifest) : status;
}
