/* Noise from a seed, by the recipe of docs/noise.md: the same bits on every machine and in every language. */
#ifndef TV_NOISE_H
#define TV_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TV_NOISE_RECIPE "philox4x32-10-as241"

/* Values 0 to `dim`-1 of image 0 of `seed`. */
void tv_noise_from_seed(uint64_t seed, size_t dim, float *out);

/* Value `index` of image `image` of `seed`. */
float tv_noise_value(uint64_t seed, uint32_t image, uint64_t index);

/* Whether this build rounds as the recipe says: false when the compiler fused multiplications and additions. */
bool tv_noise_is_exact(void);

#endif
