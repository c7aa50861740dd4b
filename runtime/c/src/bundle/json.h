/*
 * JSON, strictly: UTF-8, finite numbers, no key twice, no half of a surrogate pair, nothing after the value.
 * A file from a stranger cannot make it recurse deeply or take more memory than its limits.
 */
#ifndef TV_JSON_H
#define TV_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/text.h"

#define TV_JSON_DEPTH_LIMIT 64
#define TV_JSON_VALUE_LIMIT 2000000

typedef enum {
    TV_JSON_NULL,
    TV_JSON_FALSE,
    TV_JSON_TRUE,
    TV_JSON_INTEGER,
    TV_JSON_NUMBER, /* with a fraction or an exponent */
    TV_JSON_STRING,
    TV_JSON_LIST,
    TV_JSON_OBJECT
} tv_json_kind;

typedef struct tv_json {
    tv_json_kind kind;
    uint32_t count;       /* items of a list or an object */
    tv_text key;          /* of an item of an object */
    tv_text text;         /* of a string, unescaped; of a number, as written */
    double number;        /* of an integer too; correctly rounded unless it is written in hundreds of digits */
    struct tv_json *item; /* the first of them */
    struct tv_json *next; /* after this one in its list or object */
} tv_json;

/*
 * The value in `data`, which is overwritten and must live as long as the value. `name` is the file, for errors.
 * NULL with TV_INTEGRITY, or with TV_FAILED when there is no memory, as the thread's error and `*status`.
 */
tv_json *tv_json_parse(tv_arena *arena, char *data, size_t bytes, const char *name, int *status);

/* The item of an object by its key; NULL when there is none, or `object` is NULL or something else. */
const tv_json *tv_json_get(const tv_json *object, const char *key);

/* The integer's value when it is between the limits. */
bool tv_json_integer(const tv_json *value, int64_t low, int64_t high, int64_t *out);
bool tv_json_unsigned(const tv_json *value, uint64_t *out);

#endif
