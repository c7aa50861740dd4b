#include "draw/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "bundle/declaration_check.h"
#include "bundle/loop_check.h"

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

/* An int64 of each row, made from the prompt or label. */
static bool is_row_number(tv_text name)
{
    return tv_text_is(name, TV_LENGTHS) || tv_text_is(name, TV_LABEL);
}

static const tv_noise_spec *noise_named(const tv_manifest *manifest, tv_text name)
{
    const tv_noise_spec *noise = manifest->noise.items;
    for (size_t index = 0; index < manifest->noise.count; index++)
        if (tv_text_equal(tv_noise_name(&noise[index]), name))
            return &noise[index];
    return NULL;
}

static bool is_parameter(const tv_manifest *manifest, tv_text name)
{
    const tv_parameter_spec *parameters = manifest->parameters.items;
    for (size_t index = 0; index < manifest->parameters.count; index++)
        if (tv_text_equal(parameters[index].name, name))
            return true;
    return false;
}

/* Whether the unit itself gives the input `name` to its stage number `stage`. */
static bool is_made_inside(const tv_manifest *manifest, const tv_unit *unit, size_t stage, tv_text name)
{
    const tv_stage_spec *stages = (const tv_stage_spec *)manifest->stages.items + unit->first;
    if (unit->loop != NULL && tv_loop_makes(unit->loop, name))
        return true;
    for (size_t index = 0; index < stage; index++) {
        const tv_tensor_spec *outputs = stages[index].outputs.items;
        for (size_t place = 0; place < stages[index].outputs.count; place++)
            if (tv_text_equal(outputs[place].name, name))
                return true;
    }
    return false;
}

typedef struct {
    const name_set *first, *second;
    tv_text missing; /* the first, in order of names, that no set has; data NULL when there is none */
} search;

static void look_for(search *self, tv_text name)
{
    if (!has(self->first, name) && !has(self->second, name) &&
        (self->missing.data == NULL || tv_text_compare(&name, &self->missing) < 0))
        self->missing = name;
}

/* What the unit needs from outside and no set has. */
static tv_text missing_input(const tv_manifest *manifest, const tv_unit *unit, const name_set *first,
                             const name_set *second)
{
    search self = {first, second, {NULL, 0}};
    const tv_stage_spec *stages = (const tv_stage_spec *)manifest->stages.items + unit->first;
    for (size_t stage = 0; stage < unit->count; stage++) {
        const tv_tensor_spec *inputs = stages[stage].inputs.items;
        for (size_t place = 0; place < stages[stage].inputs.count; place++)
            if (!is_made_inside(manifest, unit, stage, inputs[place].name))
                look_for(&self, inputs[place].name);
    }
    for (size_t index = 0; unit->loop != NULL && index < unit->loop->start.count; index++) {
        const tv_start_spec *start = tv_map_value(&unit->loop->start, sizeof *start, index);
        if (start->tensor.data != NULL)
            look_for(&self, start->tensor);
    }
    return self.missing;
}

static tv_text unit_name(const tv_manifest *manifest, const tv_unit *unit)
{
    return unit->loop != NULL ? unit->loop->name : ((const tv_stage_spec *)manifest->stages.items)[unit->first].name;
}

/* Noise that is drawn at each step is there within a loop's steps alone. */
static int check_step_noise(const tv_manifest *manifest, const tv_unit *unit)
{
    const tv_stage_spec *stage = (const tv_stage_spec *)manifest->stages.items + unit->first;
    const tv_tensor_spec *inputs = stage->inputs.items;
    const tv_noise_spec *noise = NULL;
    for (size_t place = 0; unit->loop == NULL && place < stage->inputs.count; place++)
        if ((noise = noise_named(manifest, inputs[place].name)) != NULL && noise->per_step)
            break;
        else
            noise = NULL;
    for (size_t index = 0; unit->loop != NULL && noise == NULL && index < unit->loop->start.count; index++) {
        const tv_start_spec *start = tv_map_value(&unit->loop->start, sizeof *start, index);
        const tv_noise_spec *found = start->tensor.data == NULL ? NULL : noise_named(manifest, start->tensor);
        noise = found != NULL && found->per_step ? found : NULL;
    }
    if (noise == NULL)
        return TV_OK;
    tv_text name = tv_noise_name(noise), unit_is = unit_name(manifest, unit);
    return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT,
                   "manifest.noise: '%.*s' is drawn at each step, but '%.*s' takes it outside of a loop's steps",
                   (int)name.bytes, name.data, (int)unit_is.bytes, unit_is.data);
}

static int split(const tv_manifest *manifest, const tv_plan *plan, name_set *by_prompt, name_set *by_picture)
{
    static const name_set none = {NULL, 0};
    const tv_stage_spec *stages = manifest->stages.items;
    for (size_t index = 0; index < plan->count; index++) {
        tv_unit *unit = &plan->units[index];
        tv_text missing = missing_input(manifest, unit, by_prompt, by_picture), name = unit_name(manifest, unit);
        if (missing.data != NULL)
            return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT,
                           "manifest.stages: '%.*s' needs '%.*s', which no stage before it gives", (int)name.bytes,
                           name.data, (int)missing.bytes, missing.data);
        int status = check_step_noise(manifest, unit);
        if (status != TV_OK)
            return status;
        unit->by_prompt = missing_input(manifest, unit, by_prompt, &none).data == NULL;
        name_set *into = unit->by_prompt ? by_prompt : by_picture;
        for (size_t stage = unit->first; stage < unit->first + unit->count; stage++) {
            const tv_tensor_spec *outputs = stages[stage].outputs.items;
            for (size_t place = 0; place < stages[stage].outputs.count; place++)
                into->names[into->count++] = outputs[place].name;
        }
    }
    if (!has(by_picture, tv_text_of(TV_IMAGE)))
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "manifest.stages: no stage gives 'image' from noise");
    return TV_OK;
}

static const tv_loop_spec *loop_over(const tv_manifest *manifest, tv_text stage)
{
    const tv_loop_spec *loops = manifest->loops.items;
    for (size_t index = 0; index < manifest->loops.count; index++) {
        const tv_text *names = loops[index].stages.items;
        for (size_t place = 0; place < loops[index].stages.count; place++)
            if (tv_text_equal(names[place], stage))
                return &loops[index];
    }
    return NULL;
}

static int find_units(const tv_manifest *manifest, tv_plan *plan)
{
    const tv_stage_spec *stages = manifest->stages.items;
    for (size_t index = 0; index < manifest->stages.count; index += plan->units[plan->count - 1].count) {
        const tv_loop_spec *loop = loop_over(manifest, stages[index].name);
        tv_unit unit = {index, loop == NULL ? 1 : loop->stages.count, loop, false};
        const tv_text *names = loop == NULL ? &stages[index].name : loop->stages.items;
        for (size_t place = 0; place < unit.count; place++)
            if (index + place >= manifest->stages.count || !tv_text_equal(names[place], stages[index + place].name))
                return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "loop '%.*s': its stages do not follow each other",
                               (int)loop->name.bytes, loop->name.data);
        plan->units[plan->count++] = unit;
    }
    return TV_OK;
}

/* A number of tokens in a shape must be the one that every prompt is padded to. */
static int check_tokens(const tv_text_spec *text, const tv_stage_spec *stage, const tv_tensor_spec *input)
{
    const tv_size *sizes = input->shape.items;
    if (!is_prompt_tensor(input->name) || input->shape.count != 2 || sizes[1].name.data != NULL ||
        (text->fixed_length && sizes[1].number == text->max_tokens))
        return TV_OK;
    char length[32];
    snprintf(length, sizeof length, "is %lld", (long long)text->max_tokens);
    return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "manifest.stages: '%.*s' takes %lld tokens, the text's length %s",
                   (int)stage->name.bytes, stage->name.data, (long long)sizes[1].number,
                   text->fixed_length ? length : "varies");
}

static bool is_shape_of(const tv_noise_spec *noise, const tv_tensor_spec *input)
{
    const int64_t *declared = noise->shape.items;
    const tv_size *sizes = input->shape.items;
    for (size_t index = 0; index < noise->shape.count; index++)
        if (sizes[index + 1].name.data != NULL || sizes[index + 1].number != declared[index])
            return false;
    return true;
}

/* What the runtime itself makes has one type and one rank. */
static int check_made_here(const tv_manifest *manifest, const tv_stage_spec *stage, const tv_tensor_spec *input)
{
    const tv_noise_spec *noise = noise_named(manifest, input->name);
    bool prompt = is_prompt_tensor(input->name), row = is_row_number(input->name);
    bool parameter = is_parameter(manifest, input->name);
    const char *dtype = prompt || row ? "int64" : "float32";
    size_t rank = noise != NULL ? noise->shape.count + 1 : prompt ? 2 : 1;
    if (noise == NULL && !prompt && !row && !parameter)
        return TV_OK;
    if (!tv_text_is(input->dtype, dtype) || input->shape.count != rank ||
        (noise != NULL && !is_shape_of(noise, input)))
        return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "manifest.stages: '%.*s' takes '%.*s' not as %s of its shape",
                       (int)stage->name.bytes, stage->name.data, (int)input->name.bytes, input->name.data, dtype);
    return prompt ? check_tokens(manifest->text, stage, input) : TV_OK;
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

int tv_plan_make(tv_arena *arena, const tv_manifest *manifest, tv_plan *plan)
{
    const tv_stage_spec *stages = manifest->stages.items;
    const tv_noise_spec *noise = manifest->noise.items;
    const tv_parameter_spec *parameters = manifest->parameters.items;
    size_t names = 4 + manifest->noise.count + manifest->parameters.count; /* four of prompt and label */
    for (size_t index = 0; index < manifest->stages.count; index++)
        names += stages[index].outputs.count;
    name_set prompt_names = {tv_arena_take(arena, names, sizeof(tv_text)), 0};
    name_set picture_names = {tv_arena_take(arena, names, sizeof(tv_text)), 0};
    plan->units = tv_arena_take(arena, manifest->stages.count, sizeof *plan->units);
    if (prompt_names.names == NULL || picture_names.names == NULL || plan->units == NULL)
        return tv_fail_memory();
    if (manifest->text != NULL) {
        add(&prompt_names, TV_INPUT_IDS);
        add(&prompt_names, TV_ATTENTION_MASK);
        add(&prompt_names, TV_LENGTHS);
    }
    if (manifest->labels != NULL)
        add(&prompt_names, TV_LABEL);
    for (size_t index = 0; index < manifest->noise.count; index++)
        picture_names.names[picture_names.count++] = tv_noise_name(&noise[index]);
    for (size_t index = 0; index < manifest->parameters.count; index++)
        picture_names.names[picture_names.count++] = parameters[index].name;
    int status = find_units(manifest, plan);
    if (status == TV_OK)
        status = split(manifest, plan, &prompt_names, &picture_names);
    return status == TV_OK ? check_inputs(manifest) : status;
}
