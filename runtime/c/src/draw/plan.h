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

/* One stage, or a loop over several. */
typedef struct {
    size_t first, count;      /* stages, by their places in the manifest */
    const tv_loop_spec *loop; /* NULL when it is one stage that runs once */
    bool by_prompt;           /* whether it needs the prompt alone */
} tv_unit;

typedef struct {
    tv_unit *units;
    size_t count;
} tv_plan;

/*
 * The units in running order. TV_INTEGRITY when one needs what nothing before it gives, a loop's stages are no
 * neighbors, the pictures come from nowhere, or a shape is not that of the tokens or the noise; TV_FAILED.
 */
int tv_plan_make(tv_arena *arena, const tv_manifest *manifest, tv_plan *plan);

#endif
