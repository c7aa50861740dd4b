/* Constants of a graph. */
#ifndef TV_GRAPH_TENSOR_H
#define TV_GRAPH_TENSOR_H

#include "graph/model.h"

/* A tensor whose type, sizes and number of values agree; NULL when they do not. */
const tv_graph_tensor *tv_graph_tensor_read(tv_graph_reader *reader, const tv_wire_field *message);

/* Up to 16 sizes, each below 2^31. */
bool tv_graph_sizes_check(tv_graph_reader *reader, const int64_t *sizes, size_t count);

#endif
