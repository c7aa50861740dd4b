/* The order in which a bundle's stages run: those that depend on the prompt alone once for all its pictures. */
#ifndef TV_PLAN_H
#define TV_PLAN_H

#include "bundle/manifest.h"

#define TV_INPUT_IDS "input_ids"
#define TV_ATTENTION_MASK "attention_mask"
#define TV_LENGTHS "lengths"
#define TV_LABEL "label"
#define TV_IMAGE "image"
#define TV_CODES "codes"

/*
 * For each stage in running order, whether it needs the prompt alone. TV_INTEGRITY when a stage needs what no stage
 * before it gives, the pictures come from nowhere, or a shape is not that of the tokens or the noise;
 * TV_FAILED.
 */
int tv_plan_make(tv_arena *arena, const tv_manifest *manifest, bool **by_prompt);

#endif
