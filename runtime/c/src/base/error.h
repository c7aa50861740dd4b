/* The last error of each thread, and how a function reports one: `return tv_fail(TV_INTEGRITY, HINT, "...")`. */
#ifndef TV_ERROR_H
#define TV_ERROR_H

#include "textual_vision.h"

#if defined(__GNUC__)
#define TV_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define TV_PRINTF(text, first)
#endif

#define TV_HINT_EXPORT "export the bundle again"
#define TV_HINT_DAMAGED "the file is damaged or was not written by tv-export: export the bundle again"
#define TV_HINT_AGAIN "copy the bundle again, or export it again"

/* Remember message and hint for this thread; gives `status` back. A message of more than 1,000 bytes is cut. */
int tv_fail(int status, const char *hint, const char *format, ...) TV_PRINTF(3, 4);

/* The error of memory that was not to be had. */
int tv_fail_memory(void);

#endif
