#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

#define MESSAGE_BYTES 1024
#define HINT_BYTES 512

/* C99 has no name for a thread's own storage; GCC, Clang and what copies them call it __thread. */
static __thread char last_message[MESSAGE_BYTES];
static __thread char last_hint[HINT_BYTES];

int tv_fail(int status, const char *hint, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_message, sizeof last_message, format, arguments);
    va_end(arguments);
    snprintf(last_hint, sizeof last_hint, "%s", hint);
    return status;
}

int tv_fail_memory(void)
{
    return tv_fail(TV_FAILED, "close other programs, or generate fewer pictures at once", "not enough memory");
}

const char *tv_error(void)
{
    return last_message;
}

const char *tv_hint(void)
{
    return last_hint;
}
