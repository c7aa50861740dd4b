/*
 * JSON objects into C structures, by tables: a `tv_record` lists the fields that an object may have, where each is
 * kept and what it must be. Anything else is an error that names the field.
 */
#ifndef TV_RECORD_H
#define TV_RECORD_H

#include "bundle/json.h"

#define TV_NO_ID (-1)

typedef enum {
    TV_FIELD_TEXT,          /* tv_text */
    TV_FIELD_TEXT_OR_NULL,  /* tv_text; data NULL */
    TV_FIELD_INTEGER,       /* int64_t; INT64_MIN or _MAX when it takes more bits: no limit allows it */
    TV_FIELD_UNSIGNED,      /* uint64_t */
    TV_FIELD_NUMBER,        /* double; integers of less than 53 bits too */
    TV_FIELD_BOOLEAN,       /* bool */
    TV_FIELD_RECORD,        /* the structure itself */
    TV_FIELD_RECORD_OR_NULL,/* pointer to it */
    TV_FIELD_ANY,           /* const tv_json * */
    TV_FIELD_ANY_INTEGER,   /* const tv_json *: an integer */
    TV_FIELD_ANY_NUMBER,    /* const tv_json *: a number */
    TV_FIELD_INTEGER_OR_NULL, /* const tv_json * */
    TV_FIELD_ID_OR_NULL,    /* int64_t; TV_NO_ID for null */
    TV_FIELD_NUMBER_OR_NULL,  /* const tv_json * */
    TV_FIELD_SIZE,          /* tv_size: an integer or a text */
    TV_FIELD_LIST,          /* tv_list of what `of` says */
    TV_FIELD_MAP            /* tv_list of tv_text keys, each followed by what `of` says */
} tv_field_kind;

typedef struct {
    void *items;
    size_t count;
} tv_list;

typedef struct {
    tv_text name; /* data NULL when it is a number */
    int64_t number;
} tv_size;

typedef struct tv_field tv_field;

typedef struct {
    const tv_field *fields;
    size_t count;
    size_t bytes; /* of the structure */
} tv_record;

/* The value alone: what a list or map holds. */
typedef struct tv_element {
    tv_field_kind kind;
    const tv_record *record;     /* of TV_FIELD_RECORD */
    const struct tv_element *of; /* of TV_FIELD_LIST and TV_FIELD_MAP */
} tv_element;

struct tv_field {
    const char *name;
    size_t offset; /* in the structure */
    bool optional; /* all zero when it is missing */
    tv_element value;
};

#define TV_COUNT_OF(array) (sizeof(array) / sizeof(array)[0])
#define TV_RECORD(fields, type) {fields, TV_COUNT_OF(fields), sizeof(type)}

/* Fill the structure `out` of `record` from `value`; `where` names it in errors. TV_INTEGRITY, TV_FAILED. */
int tv_record_decode(tv_arena *arena, const tv_record *record, const tv_json *value, const char *where, void *out);

/* Item `index` of a map whose values take `bytes`: its key, and its value. */
tv_text tv_map_key(const tv_list *map, size_t bytes, size_t index);
void *tv_map_value(const tv_list *map, size_t bytes, size_t index);

/* The value of `key`; NULL when there is none. */
void *tv_map_find(const tv_list *map, size_t bytes, tv_text key);

#endif
