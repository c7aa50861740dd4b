/* What a prompt's characters are and become; unicode_tables.c is written by scripts/write_unicode_tables.py. */
#ifndef TV_UNICODE_TABLES_H
#define TV_UNICODE_TABLES_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t first, last;
} tv_code_range;

typedef struct {
    uint32_t first, last;
    uint32_t order; /* combining class */
} tv_code_class;

typedef struct {
    uint32_t code;
    uint16_t place, length; /* in the characters that belong to the table */
} tv_code_mapping;

extern const tv_code_range tv_unicode_removed[];      /* by the BERT normalizer's clean_text */
extern const tv_code_range tv_unicode_space[];        /* made a space by it */
extern const tv_code_range tv_unicode_delimiter[];    /* ends a word and is dropped */
extern const tv_code_range tv_unicode_punctuation[];  /* is a word of its own */
extern const tv_code_range tv_unicode_mark[];         /* removed by strip_accents, after NFD */
extern const tv_code_range tv_unicode_python_space[]; /* Python's str.isspace */
extern const tv_code_range tv_unicode_unprintable[];  /* not Python's str.isprintable */
extern const tv_code_class tv_unicode_class[];        /* of characters that have one other than 0 */
extern const tv_code_mapping tv_unicode_lower[];
extern const tv_code_mapping tv_unicode_decomposition[]; /* NFD without Hangul, which is arithmetic */
extern const uint32_t tv_unicode_lower_characters[];
extern const uint32_t tv_unicode_decomposition_characters[];

extern const size_t tv_unicode_removed_count;
extern const size_t tv_unicode_space_count;
extern const size_t tv_unicode_delimiter_count;
extern const size_t tv_unicode_punctuation_count;
extern const size_t tv_unicode_mark_count;
extern const size_t tv_unicode_python_space_count;
extern const size_t tv_unicode_unprintable_count;
extern const size_t tv_unicode_class_count;
extern const size_t tv_unicode_lower_count;
extern const size_t tv_unicode_decomposition_count;

#endif
