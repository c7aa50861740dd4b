/* Names of emoji, and NFKC; emoji_names.c and nfkc_tables.c are written by scripts/write_unicode_tables.py. */
#ifndef TV_PROMPT_TABLES_H
#define TV_PROMPT_TABLES_H

#include "base/unicode_tables.h"

typedef struct {
    const char *sequence, *name; /* UTF-8 */
} tv_emoji_name;

typedef struct {
    uint32_t first, second, composed;
} tv_code_pair;

extern const tv_emoji_name tv_emoji_names[]; /* sorted by bytes */
extern const tv_code_class tv_nfkc_class[];
extern const tv_code_mapping tv_nfkc_decomposition[]; /* NFKD without Hangul */
extern const uint32_t tv_nfkc_decomposition_characters[];
extern const tv_code_pair tv_nfkc_pair[]; /* sorted */

extern const size_t tv_emoji_names_count;
extern const size_t tv_nfkc_class_count;
extern const size_t tv_nfkc_decomposition_count;
extern const size_t tv_nfkc_pair_count;

#endif
