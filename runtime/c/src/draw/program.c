#include "draw/program.h"

#include <stdlib.h>

#include "base/error.h"
#include "bundle/loop_check.h"

typedef struct {
    const tv_model *model;
    const tv_unit *unit;
    tv_tensors tensors; /* known within the loop; what is known outside is its outer */
    int64_t rows;
} running;

static const tv_stage_spec *stages_of(const running *self)
{
    return (const tv_stage_spec *)self->model->bundle.manifest.stages.items + self->unit->first;
}

/* The last stage's input of the name; the manifest's check has found one. */
static const tv_tensor_spec *input_named(const running *self, tv_text name)
{
    const tv_stage_spec *stages = stages_of(self);
    for (size_t stage = self->unit->count; stage-- > 0;) {
        const tv_tensor_spec *inputs = stages[stage].inputs.items;
        for (size_t place = 0; place < stages[stage].inputs.count; place++)
            if (tv_text_equal(inputs[place].name, name))
                return &inputs[place];
    }
    return NULL;
}

static int missing(tv_text name)
{
    return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "manifest.loops: there is no tensor '%.*s' to begin with",
                   (int)name.bytes, name.data);
}

/* Carried tensors before the first step. */
static int put_starts(running *self)
{
    const tv_list *carry = &self->unit->loop->carry;
    int status = TV_OK;
    for (size_t index = 0; index < carry->count && status == TV_OK; index++) {
        tv_text name = tv_map_key(carry, sizeof(tv_text), index);
        const tv_start_spec *start = tv_loop_start(self->unit->loop, name);
        tv_tensor tensor;
        if (start->tensor.data == NULL) {
            status = tv_tensor_fill(&self->tensors, input_named(self, name), start->fill->number, self->rows, &tensor);
        } else {
            const tv_tensor *source = tv_tensors_find(self->tensors.outer, start->tensor);
            if (source == NULL)
                return missing(start->tensor);
            status = tv_tensor_copy(&self->tensors, source, name, &tensor);
        }
        if (status == TV_OK)
            status = tv_tensors_put(&self->tensors, tensor);
    }
    return status;
}

static int put_tables(running *self, size_t step)
{
    const tv_list *tables = &self->unit->loop->tables;
    int status = TV_OK;
    for (size_t index = 0; index < tables->count && status == TV_OK; index++) {
        tv_text name = tv_map_key(tables, sizeof(tv_list), index);
        double value = tv_loop_table(self->unit->loop, name)[step];
        tv_tensor tensor;
        status = tv_tensor_fill(&self->tensors, input_named(self, name), value, self->rows, &tensor);
        if (status == TV_OK)
            status = tv_tensors_put(&self->tensors, tensor);
    }
    return status;
}

/* Every carried tensor takes its output's values, all at once: one may be another's source. */
static int carry_on(running *self)
{
    const tv_list *carry = &self->unit->loop->carry;
    tv_tensor *next = calloc(carry->count + 1, sizeof *next);
    int status = next == NULL ? tv_fail_memory() : TV_OK;
    size_t made = 0;
    for (; made < carry->count && status == TV_OK; made++) {
        tv_text source = *(const tv_text *)tv_map_value(carry, sizeof(tv_text), made);
        status = tv_tensor_copy(&self->tensors, tv_tensors_find(&self->tensors, source),
                                tv_map_key(carry, sizeof(tv_text), made), &next[made]);
    }
    for (size_t index = 0; index < made; index++) { /* put releases what it cannot keep */
        int kept = next[index].owned == NULL ? status : tv_tensors_put(&self->tensors, next[index]);
        status = status == TV_OK ? kept : status;
    }
    free(next);
    return status;
}

static int run_step(running *self, size_t step, const tv_step_noise *noise)
{
    int status = put_tables(self, step);
    if (status == TV_OK && noise != NULL)
        status = noise->put(noise->self, step, &self->tensors);
    for (size_t index = 0; index < self->unit->count && status == TV_OK; index++)
        status = tv_session_run(&self->model->sessions[self->unit->first + index], &self->tensors, self->rows);
    return status == TV_OK ? carry_on(self) : status;
}

static int keep_outputs(running *self, tv_tensors *tensors)
{
    const tv_stage_spec *stages = stages_of(self);
    int status = TV_OK;
    for (size_t stage = 0; stage < self->unit->count; stage++) {
        const tv_tensor_spec *outputs = stages[stage].outputs.items;
        for (size_t place = 0; place < stages[stage].outputs.count && status == TV_OK; place++)
            status = tv_tensors_move(&self->tensors, tensors, outputs[place].name);
    }
    return status;
}

int tv_unit_run(const tv_model *model, const tv_unit *unit, tv_tensors *tensors, int64_t rows,
                const tv_step_noise *noise)
{
    if (unit->loop == NULL)
        return tv_session_run(&model->sessions[unit->first], tensors, rows);
    running self = {model, unit, {tensors->ort, tensors->memory, NULL, 0, 0, tensors}, rows};
    int status = put_starts(&self);
    for (int64_t step = 0; step < unit->loop->steps && status == TV_OK; step++)
        status = run_step(&self, (size_t)step, noise);
    if (status == TV_OK)
        status = keep_outputs(&self, tensors);
    tv_tensors_release(&self.tensors);
    return status;
}
