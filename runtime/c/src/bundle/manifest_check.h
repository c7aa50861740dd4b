/* What the types of a manifest alone do not say. */
#ifndef TV_MANIFEST_CHECK_H
#define TV_MANIFEST_CHECK_H

#include "bundle/manifest.h"

/* Sizes, paths, names and what refers to what. TV_INTEGRITY naming the field; TV_FAILED. */
int tv_manifest_check(tv_arena *arena, const tv_manifest *manifest);

#endif
