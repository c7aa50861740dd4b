/* Text of known length, UTF-8, and how messages show it. Nothing here needs a NUL at its end. */
#ifndef TV_TEXT_H
#define TV_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/unicode_tables.h"

#define TV_SHOWN_CHARACTERS 40
#define TV_SHOWN_BYTES (TV_SHOWN_CHARACTERS * 10 + 8) /* an escape takes up to ten bytes; quotes; dots */

typedef struct {
    const char *data;
    size_t bytes;
} tv_text;

tv_text tv_text_of(const char *zero_terminated);
bool tv_text_equal(tv_text first, tv_text second);
bool tv_text_is(tv_text text, const char *zero_terminated);

/* Order by bytes, which is that of code points; for qsort and bsearch of tv_text. */
int tv_text_compare(const void *first, const void *second);

/* The next code point of UTF-8, read strictly (no overlong form, no surrogate); -1 when it is invalid. */
int32_t tv_next_code_point(tv_text text, size_t *place);

/* The bytes of `code` in UTF-8 at `out`, which has room for four; the count of them. */
size_t tv_utf8_from_code_point(uint32_t code, char *out);

bool tv_is_utf8(tv_text text);

/* `text` in quotes on one line, escaped as Python's ascii() does; `printable` keeps letters, as repr() does. */
const char *tv_quoted(tv_text text, bool printable, char out[TV_SHOWN_BYTES]);

/* `text` on one line, with what cannot be printed escaped; cut where `room`, of at least twelve bytes, ends. */
void tv_printable(tv_text text, char *out, size_t room);

/* Python's str.isprintable; invalid UTF-8 is not. */
bool tv_is_printable(tv_text text);

bool tv_in_ranges(uint32_t code, const tv_code_range *ranges, size_t count);

#endif
