/* A noise tensor of the manifest as the recipe draws it. */
#ifndef TV_NOISE_LAW_H
#define TV_NOISE_LAW_H

#include "bundle/manifest.h"
#include "draw/noise.h"

/* The law of noise tensor `number`. */
tv_noise_law tv_law_of(const tv_noise_spec *spec, size_t number);

#endif
