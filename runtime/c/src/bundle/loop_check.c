#include "bundle/loop_check.h"

#include <stdio.h>

#include "base/error.h"

#define STEPS_LIMIT 4096
#define WHERE_BYTES 512

static int bad(const char *where, const char *part, const char *problem)
{
    return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s.%s: %s", where, part, problem);
}

const tv_start_spec *tv_loop_start(const tv_loop_spec *loop, tv_text name)
{
    return tv_map_find(&loop->start, sizeof(tv_start_spec), name);
}

const double *tv_loop_table(const tv_loop_spec *loop, tv_text name)
{
    const tv_list *table = tv_map_find(&loop->tables, sizeof(tv_list), name);
    return table == NULL ? NULL : table->items;
}

static bool is_carried(const tv_loop_spec *loop, tv_text name)
{
    return tv_map_find(&loop->carry, sizeof(tv_text), name) != NULL;
}

bool tv_loop_makes(const tv_loop_spec *loop, tv_text name)
{
    return is_carried(loop, name) || tv_loop_table(loop, name) != NULL;
}

static const tv_stage_spec *stage_named(const tv_manifest *manifest, tv_text name)
{
    const tv_stage_spec *stages = manifest->stages.items;
    for (size_t index = 0; index < manifest->stages.count; index++)
        if (tv_text_equal(stages[index].name, name))
            return &stages[index];
    return NULL;
}

static bool has_stage(const tv_loop_spec *loop, tv_text name)
{
    const tv_text *stages = loop->stages.items;
    for (size_t index = 0; index < loop->stages.count; index++)
        if (tv_text_equal(stages[index], name))
            return true;
    return false;
}

/* Known stages that no loop before has. */
static bool are_stages_good(const tv_manifest *manifest, size_t number)
{
    const tv_loop_spec *loops = manifest->loops.items;
    const tv_text *stages = loops[number].stages.items;
    for (size_t index = 0; index < loops[number].stages.count; index++) {
        if (stage_named(manifest, stages[index]) == NULL)
            return false;
        for (size_t other = 0; other < number; other++)
            if (has_stage(&loops[other], stages[index]))
                return false;
    }
    return loops[number].stages.count > 0;
}

/* Whether a stage of the loop takes the tensor, or gives it. */
static bool has_tensor(const tv_manifest *manifest, const tv_loop_spec *loop, tv_text name, bool outputs)
{
    const tv_text *names = loop->stages.items;
    for (size_t index = 0; index < loop->stages.count; index++) {
        const tv_stage_spec *stage = stage_named(manifest, names[index]);
        const tv_list *list = outputs ? &stage->outputs : &stage->inputs;
        const tv_tensor_spec *tensors = list->items;
        for (size_t place = 0; place < list->count; place++)
            if (tv_text_equal(tensors[place].name, name))
                return true;
    }
    return false;
}

static int check_carry(const tv_manifest *manifest, const tv_loop_spec *loop, const char *where)
{
    for (size_t index = 0; index < loop->carry.count; index++)
        if (!has_tensor(manifest, loop, tv_map_key(&loop->carry, sizeof(tv_text), index), false))
            return bad(where, "carry", "a carried tensor is no input of the stages");
    for (size_t index = 0; index < loop->carry.count; index++)
        if (!has_tensor(manifest, loop, *(const tv_text *)tv_map_value(&loop->carry, sizeof(tv_text), index), true))
            return bad(where, "carry", "no stage of the loop gives a carried tensor");
    return TV_OK;
}

static int check_start(const tv_loop_spec *loop, const char *where)
{
    char part[TV_SHOWN_BYTES + 16], quoted[TV_SHOWN_BYTES];
    for (size_t index = 0; index < loop->carry.count; index++)
        if (tv_loop_start(loop, tv_map_key(&loop->carry, sizeof(tv_text), index)) == NULL)
            return bad(where, "start", "not one start for each carried tensor");
    if (loop->start.count != loop->carry.count) /* keys are different ones */
        return bad(where, "start", "not one start for each carried tensor");
    for (size_t index = 0; index < loop->start.count; index++) {
        const tv_start_spec *start = tv_map_value(&loop->start, sizeof(tv_start_spec), index);
        tv_text name = tv_map_key(&loop->start, sizeof(tv_start_spec), index);
        bool number = start->fill != NULL && start->fill->kind != TV_JSON_NULL;
        snprintf(part, sizeof part, "start.%s", tv_quoted(name, false, quoted));
        if ((start->tensor.data != NULL) == number)
            return bad(where, part, "neither a tensor nor a number, or both");
    }
    return TV_OK;
}

static int check_tables(const tv_manifest *manifest, const tv_loop_spec *loop, const char *where)
{
    char part[TV_SHOWN_BYTES + 16], quoted[TV_SHOWN_BYTES], problem[64];
    for (size_t index = 0; index < loop->tables.count; index++) {
        tv_text name = tv_map_key(&loop->tables, sizeof(tv_list), index);
        if (is_carried(loop, name) || !has_tensor(manifest, loop, name, false))
            return bad(where, "tables", "a table is no input of the stages");
    }
    for (size_t index = 0; index < loop->tables.count; index++) {
        const tv_list *table = tv_map_value(&loop->tables, sizeof(tv_list), index);
        tv_text name = tv_map_key(&loop->tables, sizeof(tv_list), index);
        snprintf(part, sizeof part, "tables.%s", tv_quoted(name, false, quoted));
        snprintf(problem, sizeof problem, "not %d numbers", (int)loop->steps);
        if ((int64_t)table->count != loop->steps)
            return bad(where, part, problem);
    }
    return TV_OK;
}

int tv_loops_check(const tv_manifest *manifest)
{
    const tv_loop_spec *loops = manifest->loops.items;
    for (size_t index = 0; index < manifest->loops.count; index++) {
        const tv_loop_spec *loop = &loops[index];
        char where[WHERE_BYTES];
        snprintf(where, sizeof where, "manifest.loops[%zu]", index);
        if (!tv_is_plain_name(loop->name) || stage_named(manifest, loop->name) != NULL)
            return bad(where, "name", "not a new plain name");
        if (loop->steps < 1 || loop->steps > STEPS_LIMIT)
            return bad(where, "steps", "not between 1 and 4096");
        if (!are_stages_good(manifest, index))
            return bad(where, "stages", "empty, unknown, or in two loops");
        int status = check_carry(manifest, loop, where);
        if (status == TV_OK)
            status = check_start(loop, where);
        if (status == TV_OK)
            status = check_tables(manifest, loop, where);
        if (status != TV_OK)
            return status;
    }
    return TV_OK;
}
