/* golden.json: what a bundle must draw, kept inside it, so that it can test itself on any device. */
#ifndef TV_GOLDEN_H
#define TV_GOLDEN_H

#include "bundle/bundle.h"

typedef struct {
    tv_text prompt;
    uint64_t seed;
    tv_list noise_bits; /* of tv_text: the first values' float32 bits in hexadecimal */
    tv_list codes;      /* of tv_list, rows, of int64_t */
    tv_text picture;    /* the PNG's path */
} tv_golden_picture;

typedef struct {
    double code_agreement, psnr_db; /* the least that passes */
} tv_golden_budget;

typedef struct {
    int64_t schema_version;
    tv_list pictures; /* of tv_golden_picture */
    tv_list budgets;  /* map of tv_golden_budget, by precision */
} tv_golden;

/* Read the bundle's golden.json into `arena`; free `*text` when the golden pictures are done with, in any case.
   TV_USAGE when the bundle has none; TV_INTEGRITY, TV_FAILED. */
int tv_golden_read(const tv_bundle *bundle, tv_arena *arena, tv_golden *golden, char **text);

#endif
