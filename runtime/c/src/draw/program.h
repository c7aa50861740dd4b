/* Run a unit of the plan: a stage, or a loop over several. */
#ifndef TV_PROGRAM_H
#define TV_PROGRAM_H

#include "draw/model.h"

/* Puts the noise of a step among the tensors. */
typedef struct {
    int (*put)(const void *self, size_t step, tv_tensors *tensors);
    const void *self;
} tv_step_noise;

/*
 * Compute the outputs of the unit's stages, of a loop those of its last step, and put them among `tensors`, which
 * are all that is known. `noise` NULL: a loop draws none. TV_INTEGRITY when a tensor is not as the manifest says;
 * TV_FAILED.
 */
int tv_unit_run(const tv_model *model, const tv_unit *unit, tv_tensors *tensors, int64_t rows,
                const tv_step_noise *noise);

#endif
