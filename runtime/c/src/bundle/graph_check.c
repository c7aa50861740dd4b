#include "bundle/graph_check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* https://protobuf.dev/programming-guides/encoding/ */
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

#define FIELD_LIMIT 32 /* field numbers of onnx.proto3 are smaller */
#define NODE_LIMIT 100000
#define TENSOR_LIMIT 100000
#define RANK_LIMIT 16
#define ELEMENT_LIMIT ((uint64_t)1 << 31)
#define OPSET_LOWEST 11
#define OPSET_HIGHEST 30
#define PROBLEM_BYTES 160

typedef enum {
    UNKNOWN,  /* not in onnx.proto3 */
    REFUSED,  /* in it, but never written by tv-export; `why` says what it is */
    NUMBER,   /* varint */
    NUMBERS,  /* varints, packed or not */
    REAL,     /* 4 bytes */
    REALS,    /* 4 bytes each, packed or not */
    DOUBLES,  /* 8 bytes each, packed or not */
    STRING,   /* bytes; once */
    STRINGS,  /* bytes */
    DOMAIN,   /* bytes: "" or "ai.onnx" */
    VERSION,  /* varint: an operator set's version */
    TYPE,     /* varint: a tensor's element type */
    LOCATION, /* varint: 0, which is inside the file */
    SIZES,    /* varints, packed or not: the sizes of a tensor */
    MESSAGE,  /* `child`; once */
    MESSAGES
} field_kind;

typedef enum { MODEL, OPSET, ENTRY, GRAPH, NODE, ATTRIBUTE, TENSOR, ANNOTATION, VALUE, VALUE_TYPE, TENSOR_TYPE,
               SHAPE, DIMENSION, MESSAGE_KINDS } message_kind;

typedef struct {
    field_kind kind;
    message_kind child;
    const char *why;
} field_rule;

#define ELSEWHERE "the graph keeps weights in another file"

static const field_rule rules[MESSAGE_KINDS][FIELD_LIMIT] = {
    [MODEL] = {[1] = {NUMBER, 0, 0}, [2] = {STRING, 0, 0}, [3] = {STRING, 0, 0}, [4] = {STRING, 0, 0},
               [5] = {NUMBER, 0, 0}, [6] = {STRING, 0, 0}, [7] = {MESSAGE, GRAPH, 0}, [8] = {MESSAGES, OPSET, 0},
               [14] = {MESSAGES, ENTRY, 0}, [20] = {REFUSED, 0, "training information"},
               [25] = {REFUSED, 0, "functions"}, [26] = {REFUSED, 0, "device configurations"}},
    [OPSET] = {[1] = {DOMAIN, 0, 0}, [2] = {VERSION, 0, 0}},
    [ENTRY] = {[1] = {STRING, 0, 0}, [2] = {STRING, 0, 0}},
    [GRAPH] = {[1] = {MESSAGES, NODE, 0}, [2] = {STRING, 0, 0}, [5] = {MESSAGES, TENSOR, 0}, [10] = {STRING, 0, 0},
               [11] = {MESSAGES, VALUE, 0}, [12] = {MESSAGES, VALUE, 0}, [13] = {MESSAGES, VALUE, 0},
               [14] = {MESSAGES, ANNOTATION, 0}, [15] = {REFUSED, 0, "sparse tensors"},
               [16] = {MESSAGES, ENTRY, 0}},
    [NODE] = {[1] = {STRINGS, 0, 0}, [2] = {STRINGS, 0, 0}, [3] = {STRING, 0, 0}, [4] = {STRING, 0, 0},
              [5] = {MESSAGES, ATTRIBUTE, 0}, [6] = {STRING, 0, 0}, [7] = {DOMAIN, 0, 0},
              [8] = {REFUSED, 0, "an overload of a function"}, [9] = {MESSAGES, ENTRY, 0},
              [10] = {REFUSED, 0, "device configurations"}},
    [ATTRIBUTE] = {[1] = {STRING, 0, 0}, [2] = {REAL, 0, 0}, [3] = {NUMBER, 0, 0}, [4] = {STRING, 0, 0},
                   [5] = {MESSAGE, TENSOR, 0}, [6] = {REFUSED, 0, "a graph within a node"}, [7] = {REALS, 0, 0},
                   [8] = {NUMBERS, 0, 0}, [9] = {STRINGS, 0, 0}, [10] = {MESSAGES, TENSOR, 0},
                   [11] = {REFUSED, 0, "a graph within a node"}, [13] = {STRING, 0, 0},
                   [14] = {REFUSED, 0, "a type as an attribute"}, [15] = {REFUSED, 0, "a type as an attribute"},
                   [20] = {NUMBER, 0, 0}, [21] = {REFUSED, 0, "an attribute of a function"},
                   [22] = {REFUSED, 0, "sparse tensors"}, [23] = {REFUSED, 0, "sparse tensors"}},
    [TENSOR] = {[1] = {SIZES, 0, 0}, [2] = {TYPE, 0, 0}, [3] = {REFUSED, 0, "a tensor in segments"},
                [4] = {REALS, 0, 0}, [5] = {NUMBERS, 0, 0}, [6] = {STRINGS, 0, 0}, [7] = {NUMBERS, 0, 0},
                [8] = {STRING, 0, 0}, [9] = {STRING, 0, 0}, [10] = {DOUBLES, 0, 0}, [11] = {NUMBERS, 0, 0},
                [12] = {STRING, 0, 0}, [13] = {REFUSED, 0, ELSEWHERE}, [14] = {LOCATION, 0, 0},
                [16] = {MESSAGES, ENTRY, 0}},
    [ANNOTATION] = {[1] = {STRING, 0, 0}, [2] = {MESSAGES, ENTRY, 0}},
    [VALUE] = {[1] = {STRING, 0, 0}, [2] = {MESSAGE, VALUE_TYPE, 0}, [3] = {STRING, 0, 0},
               [4] = {MESSAGES, ENTRY, 0}},
    [VALUE_TYPE] = {[1] = {MESSAGE, TENSOR_TYPE, 0}, [4] = {REFUSED, 0, "a sequence"}, [5] = {REFUSED, 0, "a map"},
                    [6] = {STRING, 0, 0}, [7] = {REFUSED, 0, "an opaque type"},
                    [8] = {REFUSED, 0, "sparse tensors"}, [9] = {REFUSED, 0, "an optional value"}},
    [TENSOR_TYPE] = {[1] = {TYPE, 0, 0}, [2] = {MESSAGE, SHAPE, 0}},
    [SHAPE] = {[1] = {MESSAGES, DIMENSION, 0}},
    [DIMENSION] = {[1] = {NUMBER, 0, 0}, [2] = {STRING, 0, 0}, [3] = {STRING, 0, 0}},
};

typedef struct {
    const unsigned char *next, *end;
} span;

typedef struct {
    const unsigned char *start; /* of the file */
    size_t nodes, tensors;
    bool has_graph;
    char problem[PROBLEM_BYTES];
    bool is_sentence; /* the problem says enough without "not an ONNX graph" */
} checker;

static bool check_message(checker *self, span message, message_kind kind);

static bool refuse(checker *self, const char *format, ...) TV_PRINTF(2, 3);

static bool refuse(checker *self, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(self->problem, sizeof self->problem, format, arguments);
    va_end(arguments);
    return false;
}

static bool read_varint(checker *self, span *from, uint64_t *value)
{
    size_t place = (size_t)(from->next - self->start);
    *value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        if (from->next == from->end)
            return refuse(self, "a number without an end at byte %zu", place);
        uint64_t byte = *from->next++;
        if (shift == 63 && byte > 1)
            return refuse(self, "a number of more than 64 bits at byte %zu", place);
        *value |= (byte & 0x7F) << shift;
        if (byte < 0x80)
            return byte != 0 || shift == 0 || refuse(self, "a number in more bytes than it needs at byte %zu", place);
    }
    return refuse(self, "a number of more than ten bytes at byte %zu", place);
}

/* Cut the next `bytes` off `from`. */
static bool take(checker *self, span *from, uint64_t bytes, span *out)
{
    if (bytes > (uint64_t)(from->end - from->next))
        return refuse(self, "a field of %llu bytes ends after the file", (unsigned long long)bytes);
    out->next = from->next;
    out->end = from->next + (size_t)bytes;
    from->next = out->end;
    return true;
}

static bool check_domain(checker *self, span bytes)
{
    tv_text domain = {(const char *)bytes.next, (size_t)(bytes.end - bytes.next)};
    char quoted[TV_SHOWN_BYTES];
    if (domain.bytes == 0 || tv_text_is(domain, "ai.onnx"))
        return true;
    self->is_sentence = true;
    return refuse(self, "the graph uses operators of %.100s", tv_quoted(domain, false, quoted));
}

static bool check_type(checker *self, uint64_t type)
{
    /* float32 uint8 int8 uint16 int16 int32 int64 bool float16 float64 uint32 uint64 bfloat16, by their numbers */
    static const bool known[17] = {[1] = true, [2] = true, [3] = true, [4] = true, [5] = true, [6] = true, [7] = true,
                                   [9] = true, [10] = true, [11] = true, [12] = true, [13] = true, [16] = true};
    return (type < 17 && known[type]) || refuse(self, "elements of type %llu", (unsigned long long)type);
}

static bool check_number(checker *self, field_kind kind, uint64_t value)
{
    if (kind == TYPE)
        return check_type(self, value);
    if (kind == VERSION && (value < OPSET_LOWEST || value > OPSET_HIGHEST))
        return refuse(self, "opset %llu", (unsigned long long)value);
    if (kind == LOCATION && value != 0) {
        self->is_sentence = true;
        return refuse(self, ELSEWHERE);
    }
    return true;
}

/* A tensor's sizes, one by one: their count and product stay within bounds. */
static bool check_size(checker *self, uint64_t size, size_t *rank, uint64_t *elements)
{
    if (++*rank > RANK_LIMIT)
        return refuse(self, "a tensor of more than %d dimensions", RANK_LIMIT);
    if (size > ELEMENT_LIMIT || (size != 0 && *elements > ELEMENT_LIMIT / size))
        return refuse(self, "a tensor of more than %llu elements", (unsigned long long)ELEMENT_LIMIT);
    *elements *= size;
    return true;
}

static bool check_sizes(checker *self, span packed, size_t *rank, uint64_t *elements)
{
    uint64_t size;
    while (packed.next != packed.end)
        if (!read_varint(self, &packed, &size) || !check_size(self, size, rank, elements))
            return false;
    return true;
}

static bool fits(field_kind kind, unsigned wire)
{
    switch (kind) {
    case NUMBER:
    case VERSION:
    case TYPE:
    case LOCATION:
        return wire == WIRE_VARINT;
    case NUMBERS:
    case SIZES:
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
    return kind == NUMBERS || kind == REALS || kind == DOUBLES || kind == STRINGS || kind == SIZES || kind == MESSAGES;
}

/* Two readers may merge a field that is given twice, or take either. */
static bool check_rule(checker *self, const field_rule *rule, uint64_t number, unsigned wire, uint32_t *seen)
{
    if (rule->kind == REFUSED) {
        self->is_sentence = strcmp(rule->why, ELSEWHERE) == 0;
        return refuse(self, self->is_sentence ? "%s" : "it has %s", rule->why);
    }
    if (rule->kind == UNKNOWN)
        return refuse(self, "an unknown field %llu", (unsigned long long)number);
    if (!fits(rule->kind, wire))
        return refuse(self, "a field %llu of wire type %u", (unsigned long long)number, wire);
    if (!may_repeat(rule->kind) && (*seen >> number & 1) != 0)
        return refuse(self, "field %llu is given twice", (unsigned long long)number);
    *seen |= (uint32_t)1 << number;
    return true;
}

static bool check_count(checker *self, message_kind kind)
{
    self->nodes += kind == NODE;
    self->tensors += kind == TENSOR;
    if (self->nodes > NODE_LIMIT || self->tensors > TENSOR_LIMIT)
        return refuse(self, "more than %d nodes or tensors", NODE_LIMIT);
    return true;
}

static bool check_field(checker *self, span *message, message_kind kind, uint32_t *seen, size_t *rank,
                        uint64_t *elements)
{
    static const field_rule unknown = {UNKNOWN, 0, NULL};
    span value = {NULL, NULL};
    uint64_t key, number = 0;
    if (!read_varint(self, message, &key))
        return false;
    unsigned wire = (unsigned)(key & 7);
    const field_rule *rule = key >> 3 < FIELD_LIMIT ? &rules[kind][key >> 3] : &unknown;
    if (!check_rule(self, rule, key >> 3, wire, seen))
        return false;
    if (wire == WIRE_VARINT && !read_varint(self, message, &number))
        return false;
    if (wire == WIRE_VARINT)
        return rule->kind == SIZES ? check_size(self, number, rank, elements) : check_number(self, rule->kind, number);
    if (wire == WIRE_BYTES && !read_varint(self, message, &number))
        return false;
    if (!take(self, message, wire == WIRE_BYTES ? number : wire == WIRE_FIXED64 ? 8 : 4, &value))
        return false;
    if (rule->kind == DOMAIN)
        return check_domain(self, value);
    if (rule->kind == SIZES)
        return check_sizes(self, value, rank, elements);
    if (rule->kind != MESSAGE && rule->kind != MESSAGES)
        return true;
    self->has_graph = self->has_graph || rule->child == GRAPH;
    return check_count(self, rule->child) && check_message(self, value, rule->child);
}

/* Messages hold only messages of other kinds (see the rules), so this is as deep as they are. */
static bool check_message(checker *self, span message, message_kind kind)
{
    uint32_t seen = 0;
    size_t rank = 0;
    uint64_t elements = 1;
    while (message.next != message.end)
        if (!check_field(self, &message, kind, &seen, &rank, &elements))
            return false;
    return true;
}

int tv_graph_check(const void *graph, size_t bytes, tv_text name)
{
    const unsigned char *start = graph;
    checker self = {start, 0, 0, false, "", false};
    span whole = {start, start + bytes};
    bool good = check_message(&self, whole, MODEL);
    if (good && !self.has_graph)
        good = refuse(&self, "it holds none");
    if (good)
        return TV_OK;
    if (self.is_sentence)
        return tv_fail(TV_INTEGRITY, "export it again: a bundle's graph is whole in itself and standard ONNX",
                       "%.*s: %s", (int)name.bytes, name.data, self.problem);
    return tv_fail(TV_INTEGRITY, TV_HINT_EXPORT, "%.*s: not an ONNX graph (%s)", (int)name.bytes, name.data,
                   self.problem);
}
