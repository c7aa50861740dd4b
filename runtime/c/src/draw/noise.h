/* Noise from a seed, by the recipe of docs/reference/noise.md: the same bits on every machine and in every language. */
#ifndef TV_NOISE_H
#define TV_NOISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TV_NOISE_RECIPE "philox4x32-10-as241"

/* A noise tensor: number `tensor` of the model's, at a step of a loop (0 outside), from values of one law. */
typedef struct {
    uint32_t tensor, step;
    enum { TV_LAW_NORMAL, TV_LAW_TRUNCATED_NORMAL, TV_LAW_UNIFORM, TV_LAW_GUMBEL } law;
    double tail; /* of a truncated normal: the probability below its lower bound */
    float scale; /* factor of all values */
} tv_noise_law;

/* Values 0 to `count`-1 of `seed`. */
void tv_noise_from_seed(const tv_noise_law *law, uint64_t seed, size_t count, float *out);

/* Value `index` of image `image` of `seed`. */
float tv_noise_value(uint64_t seed, uint32_t image, uint64_t index);

/* Whether this build rounds as the recipe says: false when the compiler fused multiplications and additions. */
bool tv_noise_is_exact(void);

#endif
