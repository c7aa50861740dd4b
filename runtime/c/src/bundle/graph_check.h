/*
 * ONNX graphs from strangers, looked through before ONNX Runtime sees them.
 *
 * A graph's tensor may say that its values lie in another file, at a path that the graph chooses: a bundle could
 * draw the user's files. So the whole model is walked, field by field, and anything that tv-export never writes is
 * refused: weights elsewhere, other operator domains, functions, graphs within nodes, unknown fields, and numbers
 * in more bytes than they need, which two readers may understand in two ways.
 */
#ifndef TV_GRAPH_CHECK_H
#define TV_GRAPH_CHECK_H

#include "base/text.h"

/* TV_INTEGRITY, naming the file `name`, unless `graph` is a plain ONNX model whole in itself. */
int tv_graph_check(const void *graph, size_t bytes, tv_text name);

#endif
