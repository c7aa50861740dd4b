#include "graph/wire.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* https://protobuf.dev/programming-guides/encoding/ */
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

#define FIELD_LIMIT 32 /* field numbers of onnx.proto3 are smaller */
#define VALUES_LIMIT ((size_t)1 << 21) /* fields and numbers of a file; raw values of tensors do not count */
#define TEXT_LIMIT_BYTES ((size_t)1 << 16)

typedef enum {
    UNKNOWN,  /* not in onnx.proto3 */
    REFUSED,  /* in it, but never written by tv-export; `why` says what it is */
    NUMBER,   /* varint */
    NUMBERS,  /* varints, packed or not */
    REAL,     /* 4 bytes */
    REALS,    /* 4 bytes each, packed or not */
    DOUBLES,  /* 8 bytes each, packed or not */
    BYTES,
    STRING,   /* UTF-8 */
    STRINGS,
    MESSAGE,  /* `child`; once */
    MESSAGES
} field_kind;

typedef struct {
    field_kind kind;
    tv_wire_kind child;
    const char *why;
} field_rule;

#define NO(reason) {REFUSED, 0, reason}
#define EXTERNAL NO("the graph keeps weights in another file")
#define SUBGRAPH NO("a graph inside an operator (control flow) is not allowed")
#define SPARSE NO("sparse tensors are not allowed")
#define FUNCTIONS NO("functions are not allowed")
#define TYPES NO("types as attributes are not allowed")
#define DEVICES NO("operators placed on devices are not allowed")
#define ONE(kind) {kind, 0, NULL}
#define METADATA {MESSAGES, TV_WIRE_METADATA, NULL}

static const field_rule rules[TV_WIRE_MESSAGES][FIELD_LIMIT] = {
    [TV_WIRE_MODEL] = {[1] = ONE(NUMBER), [2] = ONE(STRING), [3] = ONE(STRING), [4] = ONE(STRING), [5] = ONE(NUMBER),
                       [6] = ONE(STRING), [7] = {MESSAGE, TV_WIRE_GRAPH, NULL}, [8] = {MESSAGES, TV_WIRE_OPSET, NULL},
                       [14] = METADATA, [20] = NO("training graphs are not allowed"), [25] = FUNCTIONS,
                       [26] = DEVICES},
    [TV_WIRE_OPSET] = {[1] = ONE(STRING), [2] = ONE(NUMBER)},
    [TV_WIRE_METADATA] = {[1] = ONE(STRING), [2] = ONE(STRING)},
    [TV_WIRE_GRAPH] = {[1] = {MESSAGES, TV_WIRE_NODE, NULL}, [2] = ONE(STRING), [5] = {MESSAGES, TV_WIRE_TENSOR, NULL},
                       [10] = ONE(STRING), [11] = {MESSAGES, TV_WIRE_VALUE, NULL},
                       [12] = {MESSAGES, TV_WIRE_VALUE, NULL}, [13] = {MESSAGES, TV_WIRE_VALUE, NULL},
                       [14] = NO("quantization annotations are not allowed"), [15] = SPARSE, [16] = METADATA},
    [TV_WIRE_NODE] = {[1] = ONE(STRINGS), [2] = ONE(STRINGS), [3] = ONE(STRING), [4] = ONE(STRING),
                      [5] = {MESSAGES, TV_WIRE_ATTRIBUTE, NULL}, [6] = ONE(STRING), [7] = ONE(STRING),
                      [8] = FUNCTIONS, [9] = METADATA, [10] = DEVICES},
    [TV_WIRE_ATTRIBUTE] = {[1] = ONE(STRING), [2] = ONE(REAL), [3] = ONE(NUMBER), [4] = ONE(STRING),
                           [5] = {MESSAGE, TV_WIRE_TENSOR, NULL}, [6] = SUBGRAPH, [7] = ONE(REALS),
                           [8] = ONE(NUMBERS), [9] = ONE(STRINGS), [10] = NO("lists of tensors are not allowed"),
                           [11] = SUBGRAPH, [13] = ONE(STRING), [14] = TYPES, [15] = TYPES, [20] = ONE(NUMBER),
                           [21] = FUNCTIONS, [22] = SPARSE, [23] = SPARSE},
    [TV_WIRE_TENSOR] = {[1] = ONE(NUMBERS), [2] = ONE(NUMBER), [3] = NO("tensors in segments are not allowed"),
                        [4] = ONE(REALS), [5] = ONE(NUMBERS), [6] = NO("tensors of strings are not allowed"),
                        [7] = ONE(NUMBERS), [8] = ONE(STRING), [9] = ONE(BYTES), [10] = ONE(DOUBLES),
                        [12] = ONE(STRING), [13] = EXTERNAL, [14] = EXTERNAL, [16] = METADATA},
    [TV_WIRE_VALUE] = {[1] = ONE(STRING), [2] = {MESSAGE, TV_WIRE_TYPE, NULL}, [3] = ONE(STRING), [4] = METADATA},
    [TV_WIRE_TYPE] = {[1] = {MESSAGE, TV_WIRE_TENSOR_TYPE, NULL}, [4] = NO("sequences are not allowed"),
                      [5] = NO("maps are not allowed"), [6] = ONE(STRING), [8] = SPARSE,
                      [9] = NO("optional values are not allowed")},
    [TV_WIRE_TENSOR_TYPE] = {[1] = ONE(NUMBER), [2] = {MESSAGE, TV_WIRE_SHAPE, NULL}},
    [TV_WIRE_SHAPE] = {[1] = {MESSAGES, TV_WIRE_DIMENSION, NULL}},
    [TV_WIRE_DIMENSION] = {[1] = ONE(NUMBER), [2] = ONE(STRING), [3] = ONE(STRING)},
};

typedef struct {
    tv_graph_reader *reader;
    const unsigned char *start; /* of the file */
    size_t left;                /* fields and numbers that may follow */
} walker;

typedef struct {
    const unsigned char *next, *end;
} span;

bool tv_graph_refuse(tv_graph_reader *reader, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reader->problem, sizeof reader->problem, format, arguments);
    va_end(arguments);
    return false;
}

bool tv_graph_no_memory(tv_graph_reader *reader)
{
    reader->no_memory = true;
    return false;
}

/* A number of at most 64 bits in its shortest encoding. */
static bool read_varint(walker *self, span *from, uint64_t *value)
{
    size_t place = (size_t)(from->next - self->start);
    *value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (from->next == from->end)
            return tv_graph_refuse(self->reader, "a number at byte %zu ends after its message", place);
        uint64_t byte = *from->next++;
        if (shift == 63 && byte > 1)
            break;
        *value |= (byte & 0x7F) << shift;
        if (byte >= 0x80)
            continue;
        return byte != 0 || shift == 0 ||
               tv_graph_refuse(self->reader, "the number at byte %zu is not encoded as protobuf writes it", place);
    }
    return tv_graph_refuse(self->reader, "a number of more than 64 bits at byte %zu", place);
}

static bool take(walker *self, span *from, uint64_t bytes, span *out)
{
    if (bytes > (uint64_t)(from->end - from->next))
        return tv_graph_refuse(self->reader, "a field of %llu bytes ends after its message",
                               (unsigned long long)bytes);
    out->next = from->next;
    out->end = from->next + (size_t)bytes;
    from->next = out->end;
    return true;
}

static bool count(walker *self, size_t values)
{
    if (values > self->left)
        return tv_graph_refuse(self->reader, "more than %zu fields", VALUES_LIMIT);
    self->left -= values;
    return true;
}

static bool fits(field_kind kind, unsigned wire)
{
    switch (kind) {
    case NUMBER:
        return wire == WIRE_VARINT;
    case NUMBERS:
        return wire == WIRE_VARINT || wire == WIRE_BYTES;
    case REAL:
        return wire == WIRE_FIXED32;
    case REALS:
        return wire == WIRE_FIXED32 || wire == WIRE_BYTES;
    case DOUBLES:
        return wire == WIRE_FIXED64 || wire == WIRE_BYTES;
    default:
        return wire == WIRE_BYTES;
    }
}

static bool may_repeat(field_kind kind)
{
    return kind == NUMBERS || kind == REALS || kind == DOUBLES || kind == STRINGS || kind == MESSAGES;
}

static bool check_packed(walker *self, field_kind kind, span bytes)
{
    size_t width = kind == REALS ? 4 : 8;
    uint64_t number;
    if (kind != NUMBERS)
        return (size_t)(bytes.end - bytes.next) % width == 0 ||
               tv_graph_refuse(self->reader, "%zu bytes are no whole number of values",
                               (size_t)(bytes.end - bytes.next));
    while (bytes.next != bytes.end)
        if (!read_varint(self, &bytes, &number) || !count(self, 1))
            return false;
    return true;
}

static bool check_text(walker *self, span bytes)
{
    tv_text text = {(const char *)bytes.next, (size_t)(bytes.end - bytes.next)};
    if (text.bytes > TEXT_LIMIT_BYTES)
        return tv_graph_refuse(self->reader, "a text of %zu bytes, at most %zu are read", text.bytes,
                               TEXT_LIMIT_BYTES);
    return tv_is_utf8(text) || tv_graph_refuse(self->reader, "a text is not UTF-8");
}

static bool read_message(walker *self, span message, tv_wire_kind kind, tv_wire_field **first);

static bool read_bytes(walker *self, const field_rule *rule, span value, tv_wire_field *field)
{
    field->data = value.next;
    field->bytes = (size_t)(value.end - value.next);
    switch (rule->kind) {
    case MESSAGE:
    case MESSAGES:
        return read_message(self, value, rule->child, &field->child);
    case STRING:
    case STRINGS:
        return check_text(self, value);
    case BYTES:
        return true;
    default:
        field->packed = true;
        return check_packed(self, rule->kind, value);
    }
}

/* The field's rule; NULL for a field that is not allowed. */
static const field_rule *rule_of(walker *self, tv_wire_kind kind, uint64_t key)
{
    unsigned wire = (unsigned)(key & 7);
    const field_rule *rule = key >> 3 < FIELD_LIMIT ? &rules[kind][key >> 3] : NULL;
    if (rule != NULL && rule->kind == REFUSED && (wire <= WIRE_BYTES || wire == WIRE_FIXED32))
        tv_graph_refuse(self->reader, "%s", rule->why);
    else if (rule == NULL || rule->kind == UNKNOWN || rule->kind == REFUSED || !fits(rule->kind, wire))
        tv_graph_refuse(self->reader, "unknown field %llu of wire type %u", (unsigned long long)(key >> 3), wire);
    else
        return rule;
    return NULL;
}

static bool read_field(walker *self, span *message, tv_wire_kind kind, uint32_t *seen, tv_wire_field *field)
{
    uint64_t key, number = 0;
    span value = {NULL, NULL};
    if (!read_varint(self, message, &key) || !count(self, 1))
        return false;
    const field_rule *rule = rule_of(self, kind, key);
    if (rule == NULL)
        return false;
    unsigned wire = (unsigned)(key & 7);
    field->field = (unsigned)(key >> 3);
    if (!may_repeat(rule->kind) && (*seen >> field->field & 1) != 0)
        return tv_graph_refuse(self->reader, "field %u is given twice", field->field);
    *seen |= (uint32_t)1 << field->field;
    if ((wire == WIRE_VARINT || wire == WIRE_BYTES) && !read_varint(self, message, &number))
        return false;
    field->number = (int64_t)number;
    if (wire == WIRE_VARINT)
        return true;
    if (!take(self, message, wire == WIRE_BYTES ? number : wire == WIRE_FIXED64 ? 8 : 4, &value))
        return false;
    if (wire == WIRE_BYTES)
        return read_bytes(self, rule, value, field);
    field->bytes = (size_t)(value.end - value.next);
    field->packed = true;
    return true;
}

/* Messages hold only messages of other kinds (see the rules), so this is as deep as they are. */
static bool read_message(walker *self, span message, tv_wire_kind kind, tv_wire_field **first)
{
    uint32_t seen = 0;
    tv_wire_field **place = first;
    while (message.next != message.end) {
        tv_wire_field *field = tv_arena_take(self->reader->arena, 1, sizeof *field);
        if (field == NULL)
            return tv_graph_no_memory(self->reader);
        if (!read_field(self, &message, kind, &seen, field))
            return false;
        *place = field;
        place = &field->next;
    }
    return true;
}

bool tv_wire_read(tv_graph_reader *reader, const unsigned char *data, size_t bytes, tv_wire_field **first)
{
    walker self = {reader, data, VALUES_LIMIT};
    span whole = {data, data + bytes};
    *first = NULL;
    return read_message(&self, whole, TV_WIRE_MODEL, first);
}

const tv_wire_field *tv_wire_find(const tv_wire_field *from, unsigned field)
{
    while (from != NULL && from->field != field)
        from = from->next;
    return from;
}

int64_t tv_wire_number(const tv_wire_field *message, unsigned field)
{
    const tv_wire_field *found = tv_wire_find(message, field);
    return found == NULL ? 0 : found->number;
}

tv_text tv_wire_field_text(const tv_wire_field *field)
{
    tv_text text = {(const char *)field->data, field->bytes};
    return text;
}

tv_text tv_wire_text(const tv_wire_field *message, unsigned field)
{
    static const tv_text empty = {"", 0};
    const tv_wire_field *found = tv_wire_find(message, field);
    return found == NULL ? empty : tv_wire_field_text(found);
}

bool tv_wire_next_number(tv_wire_numbers *numbers, int64_t *out)
{
    uint64_t value = 0;
    for (;;) {
        const tv_wire_field *field = numbers->field = tv_wire_find(numbers->field, numbers->number);
        if (field == NULL)
            return false;
        if (!field->packed || numbers->place == field->bytes) {
            numbers->field = field->next;
            numbers->place = 0;
            *out = field->number;
            if (field->packed)
                continue;
            return true;
        }
        for (int shift = 0;; shift += 7) { /* the encoding was checked */
            unsigned char byte = field->data[numbers->place++];
            value |= (uint64_t)(byte & 0x7F) << shift;
            if (byte < 0x80)
                break;
        }
        *out = (int64_t)value;
        return true;
    }
}
