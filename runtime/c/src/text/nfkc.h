/* Unicode's normalization form KC, as Python's unicodedata computes it. */
#ifndef TV_NFKC_H
#define TV_NFKC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t *codes;
    size_t count, room;
} tv_codes;

/* False when there is no memory. */
bool tv_codes_add(tv_codes *codes, uint32_t code);

/* Normalize in place; false when there is no memory. */
bool tv_nfkc(tv_codes *codes);

#endif
