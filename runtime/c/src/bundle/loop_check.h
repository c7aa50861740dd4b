/* The manifest's loops over stages. */
#ifndef TV_LOOP_CHECK_H
#define TV_LOOP_CHECK_H

#include "bundle/manifest.h"

/* TV_INTEGRITY, in Python's words, unless each loop's stages, carried tensors and tables exist. */
int tv_loops_check(const tv_manifest *manifest);

/* The start of a carried tensor; the values of a table, NULL when there is none of the name. */
const tv_start_spec *tv_loop_start(const tv_loop_spec *loop, tv_text name);
const double *tv_loop_table(const tv_loop_spec *loop, tv_text name);

/* Whether a loop itself gives its stages the input `name`: it is carried, or has a table. */
bool tv_loop_makes(const tv_loop_spec *loop, tv_text name);

#endif
