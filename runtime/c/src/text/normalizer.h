/*
 * The BERT normalizer, as the `tokenizers` library computes it, with the place in the prompt that each letter comes
 * from. Its tables are the library's own (base/unicode_tables.c).
 */
#ifndef TV_NORMALIZER_H
#define TV_NORMALIZER_H

#include "base/text.h"

typedef struct {
    bool clean_text, handle_chinese_chars, strip_accents, lowercase;
} tv_normalizer;

typedef struct {
    uint32_t code;
    uint32_t start, end; /* bytes of the prompt */
} tv_letter;

typedef struct {
    tv_letter *letters;
    size_t count, room;
} tv_letters;

/*
 * The letters of `prompt`, for the caller to free. TV_USAGE when it is not UTF-8; TV_FAILED.
 */
int tv_normalize(const tv_normalizer *normalizer, tv_text prompt, tv_letters *out);

#endif
