/* The manifest's declared inputs: noise, labels, parameters and loops. */
#ifndef TV_DECLARATION_CHECK_H
#define TV_DECLARATION_CHECK_H

#include "bundle/manifest.h"

/* TV_INTEGRITY, in Python's words, or where this library cannot run what the manifest declares. */
int tv_declarations_check(const tv_manifest *manifest);

/* Noise, with the manifest's defaults. */
tv_text tv_noise_name(const tv_noise_spec *noise);
size_t tv_noise_count(const tv_noise_spec *noise);

#endif
