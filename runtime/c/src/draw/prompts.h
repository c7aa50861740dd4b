/* Prompts through the stages that depend on them alone. */
#ifndef TV_PROMPTS_H
#define TV_PROMPTS_H

#include "draw/model.h"

/*
 * Put the prompts' ids and mask, padded to the longest, and what the prompt's stages make of them among `tensors`,
 * one row for each. Adds to the warnings of `pictures`. TV_USAGE, TV_INTEGRITY, TV_FAILED.
 */
int tv_encode_prompts(const tv_model *model, const char *const *prompts, size_t count, tv_tensors *tensors,
                      tv_pictures *pictures);

#endif
