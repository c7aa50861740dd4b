#include "bundle/record.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

#define WHERE_BYTES 512 /* a longer path of a field is cut */
#define EXACT_INTEGER 9007199254740992.0

typedef struct {
    tv_arena *arena;
    char where[WHERE_BYTES];
    size_t depth; /* bytes of `where` in use */
} decoder;

static int decode(decoder *self, const tv_element *kind, const tv_json *value, void *out);

static void enter(decoder *self, const char *separator, const char *name)
{
    int written = snprintf(self->where + self->depth, sizeof self->where - self->depth, "%s%s", separator, name);
    size_t room = sizeof self->where - 1 - self->depth;
    self->depth += (size_t)written < room ? (size_t)written : room;
}

static void leave(decoder *self, size_t depth)
{
    self->depth = depth;
    self->where[depth] = '\0';
}

static void shown(const tv_json *value, char out[TV_SHOWN_BYTES])
{
    static const char *const plain[] = {"None", "False", "True", "", "", "", "a list", "an object"};
    if (value->kind == TV_JSON_STRING) {
        tv_quoted(value->text, false, out);
    } else if (value->kind == TV_JSON_INTEGER || value->kind == TV_JSON_NUMBER) {
        uint64_t ignored;
        tv_json positive = *value;
        if (positive.text.data[0] == '-') {
            positive.text.data++;
            positive.text.bytes--;
        }
        bool huge = value->kind == TV_JSON_INTEGER && !tv_json_unsigned(&positive, &ignored);
        snprintf(out, TV_SHOWN_BYTES, "%.*s", huge ? 14 : value->text.bytes > 40 ? 40 : (int)value->text.bytes,
                 huge ? "a huge integer" : value->text.data);
    } else {
        strcpy(out, plain[value->kind]);
    }
}

static int wrong(const decoder *self, const char *expected, const tv_json *value)
{
    char text[TV_SHOWN_BYTES];
    shown(value, text);
    return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s: expected %s, found %s", self->where, expected, text);
}

static size_t bytes_of(const tv_element *kind)
{
    switch (kind->kind) {
    case TV_FIELD_TEXT:
    case TV_FIELD_TEXT_OR_NULL:
        return sizeof(tv_text);
    case TV_FIELD_SIZE:
        return sizeof(tv_size);
    case TV_FIELD_LIST:
    case TV_FIELD_MAP:
        return sizeof(tv_list);
    case TV_FIELD_RECORD:
        return kind->record->bytes;
    case TV_FIELD_BOOLEAN:
        return sizeof(bool);
    case TV_FIELD_RECORD_OR_NULL:
    case TV_FIELD_ANY:
    case TV_FIELD_ANY_INTEGER:
    case TV_FIELD_ANY_NUMBER:
    case TV_FIELD_INTEGER_OR_NULL:
    case TV_FIELD_NUMBER_OR_NULL:
        return sizeof(void *);
    default:
        return sizeof(int64_t);
    }
}

static const tv_field *field_of(const tv_record *record, tv_text name)
{
    for (size_t index = 0; index < record->count; index++)
        if (tv_text_is(name, record->fields[index].name))
            return &record->fields[index];
    return NULL;
}

static int check_fields(const decoder *self, const tv_record *record, const tv_json *value)
{
    tv_text unknown = {NULL, 0};
    for (const tv_json *item = value->item; item != NULL; item = item->next)
        if (field_of(record, item->key) == NULL && (unknown.data == NULL || tv_text_compare(&item->key, &unknown) < 0))
            unknown = item->key;
    if (unknown.data != NULL) {
        char text[TV_SHOWN_BYTES];
        return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s: unknown field %s", self->where,
                       tv_quoted(unknown, false, text));
    }
    for (size_t index = 0; index < record->count; index++) {
        const tv_field *field = &record->fields[index];
        if (!field->optional && tv_json_get(value, field->name) == NULL)
            return tv_fail(TV_INTEGRITY, TV_HINT_DAMAGED, "%s: field '%s' is missing", self->where, field->name);
    }
    return TV_OK;
}

static int decode_record(decoder *self, const tv_record *record, const tv_json *value, void *out)
{
    if (value->kind != TV_JSON_OBJECT)
        return wrong(self, "an object", value);
    int status = check_fields(self, record, value);
    size_t depth = self->depth;
    for (const tv_json *item = value->item; item != NULL && status == TV_OK; item = item->next) {
        const tv_field *field = field_of(record, item->key);
        enter(self, ".", field->name);
        status = decode(self, &field->value, item, (char *)out + field->offset);
        leave(self, depth);
    }
    return status;
}

/* Python's f".{_bare(key)}": escaped without quotes when it can be printed, else with them. */
static void enter_key(decoder *self, tv_text key)
{
    char text[TV_SHOWN_BYTES];
    tv_quoted(key, false, text);
    if (tv_is_printable(key)) {
        text[strlen(text) - 1] = '\0';
        enter(self, ".", text + 1);
    } else {
        enter(self, ".", text);
    }
}

static int decode_items(decoder *self, const tv_element *kind, const tv_json *value, tv_list *list)
{
    bool is_map = kind->kind == TV_FIELD_MAP;
    if (value->kind != (is_map ? TV_JSON_OBJECT : TV_JSON_LIST))
        return wrong(self, is_map ? "an object" : "a list", value);
    size_t bytes = bytes_of(kind->of) + (is_map ? sizeof(tv_text) : 0);
    char *place = tv_arena_take(self->arena, value->count, bytes);
    if (place == NULL)
        return tv_fail_memory();
    list->items = place;
    size_t depth = self->depth;
    int status = TV_OK;
    for (const tv_json *item = value->item; item != NULL && status == TV_OK; item = item->next) {
        char index[32];
        snprintf(index, sizeof index, "[%zu]", list->count);
        if (is_map)
            enter_key(self, item->key);
        else
            enter(self, "", index);
        if (is_map)
            *(tv_text *)(void *)place = item->key;
        status = decode(self, kind->of, item, place + (is_map ? sizeof(tv_text) : 0));
        leave(self, depth);
        list->count++;
        place += bytes;
    }
    return status;
}

static int decode_record_or_null(decoder *self, const tv_record *record, const tv_json *value, void *out)
{
    void *made = value->kind == TV_JSON_NULL ? NULL : tv_arena_take(self->arena, 1, record->bytes);
    memcpy(out, &made, sizeof made);
    if (value->kind == TV_JSON_NULL)
        return TV_OK;
    return made == NULL ? tv_fail_memory() : decode_record(self, record, value, made);
}

static int decode_integer(const decoder *self, const tv_json *value, int64_t *out)
{
    if (value->kind != TV_JSON_INTEGER)
        return wrong(self, "an integer", value);
    if (!tv_json_integer(value, INT64_MIN, INT64_MAX, out))
        *out = value->text.data[0] == '-' ? INT64_MIN : INT64_MAX;
    return TV_OK;
}

static int decode_number(const decoder *self, const tv_json *value, double *out)
{
    bool exact = value->number < EXACT_INTEGER && value->number > -EXACT_INTEGER;
    if (value->kind != TV_JSON_NUMBER && !(value->kind == TV_JSON_INTEGER && exact))
        return wrong(self, "a number", value);
    *out = value->number;
    return TV_OK;
}

/* A value that is kept as it is, when it is of the kind. */
static int check_any(const decoder *self, tv_field_kind kind, const tv_json *value)
{
    double number;
    bool null = kind == TV_FIELD_INTEGER_OR_NULL || kind == TV_FIELD_NUMBER_OR_NULL;
    bool integer = kind == TV_FIELD_INTEGER_OR_NULL || kind == TV_FIELD_ANY_INTEGER;
    if (kind == TV_FIELD_ANY || (null && value->kind == TV_JSON_NULL))
        return TV_OK;
    if (integer)
        return value->kind == TV_JSON_INTEGER ? TV_OK : wrong(self, null ? "int or null" : "an integer", value);
    if (null && value->kind != TV_JSON_NUMBER && value->kind != TV_JSON_INTEGER)
        return wrong(self, "float or null", value);
    return decode_number(self, value, &number);
}

static int decode_plain(const decoder *self, tv_field_kind kind, const tv_json *value, void *out)
{
    bool is_text = value->kind == TV_JSON_STRING;
    if (kind == TV_FIELD_BOOLEAN) {
        *(bool *)out = value->kind == TV_JSON_TRUE;
        return value->kind == TV_JSON_TRUE || value->kind == TV_JSON_FALSE ? TV_OK : wrong(self, "a boolean", value);
    }
    if (kind == TV_FIELD_UNSIGNED)
        return tv_json_unsigned(value, out) ? TV_OK : wrong(self, "an integer of 64 bits", value);
    if (kind == TV_FIELD_TEXT && !is_text)
        return wrong(self, "a string", value);
    if (kind == TV_FIELD_TEXT_OR_NULL && !is_text && value->kind != TV_JSON_NULL)
        return wrong(self, "str or null", value);
    if (kind == TV_FIELD_SIZE) {
        tv_size *size = out;
        if (!is_text && value->kind != TV_JSON_INTEGER)
            return wrong(self, "int or str", value);
        size->name = is_text ? value->text : size->name;
        return is_text ? TV_OK : decode_integer(self, value, &size->number);
    }
    if (is_text)
        *(tv_text *)out = value->text;
    return TV_OK;
}

static int decode(decoder *self, const tv_element *kind, const tv_json *value, void *out)
{
    switch (kind->kind) {
    case TV_FIELD_RECORD:
        return decode_record(self, kind->record, value, out);
    case TV_FIELD_RECORD_OR_NULL:
        return decode_record_or_null(self, kind->record, value, out);
    case TV_FIELD_LIST:
    case TV_FIELD_MAP:
        return decode_items(self, kind, value, out);
    case TV_FIELD_INTEGER:
        return decode_integer(self, value, out);
    case TV_FIELD_ID_OR_NULL:
        *(int64_t *)out = TV_NO_ID;
        if (value->kind == TV_JSON_NULL)
            return TV_OK;
        return value->kind == TV_JSON_INTEGER ? decode_integer(self, value, out) : wrong(self, "int or null", value);
    case TV_FIELD_NUMBER:
        return decode_number(self, value, out);
    case TV_FIELD_ANY:
    case TV_FIELD_ANY_INTEGER:
    case TV_FIELD_ANY_NUMBER:
    case TV_FIELD_INTEGER_OR_NULL:
    case TV_FIELD_NUMBER_OR_NULL:
        memcpy(out, &value, sizeof value);
        return check_any(self, kind->kind, value);
    default:
        return decode_plain(self, kind->kind, value, out);
    }
}

int tv_record_decode(tv_arena *arena, const tv_record *record, const tv_json *value, const char *where, void *out)
{
    decoder self = {arena, "", 0};
    enter(&self, "", where);
    return decode_record(&self, record, value, out);
}

tv_text tv_map_key(const tv_list *map, size_t bytes, size_t index)
{
    return *(const tv_text *)(const void *)((const char *)map->items + index * (sizeof(tv_text) + bytes));
}

void *tv_map_value(const tv_list *map, size_t bytes, size_t index)
{
    return (char *)map->items + index * (sizeof(tv_text) + bytes) + sizeof(tv_text);
}

void *tv_map_find(const tv_list *map, size_t bytes, tv_text key)
{
    for (size_t index = 0; index < map->count; index++)
        if (tv_text_equal(tv_map_key(map, bytes, index), key))
            return tv_map_value(map, bytes, index);
    return NULL;
}
