/*
 * Protobuf messages of onnx.proto3, read strictly: every field is known, and is encoded as protobuf's own writer does
 * it. Protobuf readers are lenient, and each in its own way: a tag of five bytes loses its upper bits in C++, a field
 * that occurs twice is merged. A check that reads such bytes otherwise than ONNX Runtime does checks another graph.
 *
 * The same rules as in textual_vision.runtime.graph.wire and onnx_fields.
 */
#ifndef TV_WIRE_H
#define TV_WIRE_H

#include "base/arena.h"
#include "base/error.h"
#include "base/text.h"

#define TV_PROBLEM_BYTES 256

/* What goes on while a graph is checked. */
typedef struct {
    tv_arena *arena;
    char problem[TV_PROBLEM_BYTES];
    bool no_memory;
} tv_graph_reader;

/* The kinds of messages that are read apart from their parents. */
typedef enum {
    TV_WIRE_MODEL,
    TV_WIRE_OPSET,
    TV_WIRE_METADATA,
    TV_WIRE_GRAPH,
    TV_WIRE_NODE,
    TV_WIRE_ATTRIBUTE,
    TV_WIRE_TENSOR,
    TV_WIRE_VALUE,
    TV_WIRE_TYPE,
    TV_WIRE_TENSOR_TYPE,
    TV_WIRE_SHAPE,
    TV_WIRE_DIMENSION,
    TV_WIRE_MESSAGES
} tv_wire_kind;

/* One field of a message, and the next one. */
typedef struct tv_wire_field {
    struct tv_wire_field *child, *next; /* the first field of the message in it */
    int64_t number;                     /* of a varint */
    const unsigned char *data;          /* of bytes */
    size_t bytes;
    unsigned field; /* its number in onnx.proto3 */
    bool packed;    /* several numbers in `data`, or one real number without */
} tv_wire_field;

/* The fields of a whole file; false when it is refused, and `problem` says why. */
bool tv_wire_read(tv_graph_reader *reader, const unsigned char *data, size_t bytes, tv_wire_field **first);

/* The first field of a number after `from` (or `from` itself); NULL when there is none. */
const tv_wire_field *tv_wire_find(const tv_wire_field *from, unsigned field);

/* The varint or text of a field that occurs once; 0 or empty when it is missing. */
int64_t tv_wire_number(const tv_wire_field *message, unsigned field);
tv_text tv_wire_text(const tv_wire_field *message, unsigned field);
tv_text tv_wire_field_text(const tv_wire_field *field);

/* The next of the numbers of a repeated field, packed or not, from the first field of its message on. */
typedef struct {
    const tv_wire_field *field;
    unsigned number;
    size_t place; /* in packed bytes */
} tv_wire_numbers;

bool tv_wire_next_number(tv_wire_numbers *numbers, int64_t *out);

/* Keep what is wrong; false. */
bool tv_graph_refuse(tv_graph_reader *reader, const char *format, ...) TV_PRINTF(2, 3);
bool tv_graph_no_memory(tv_graph_reader *reader);

#endif
