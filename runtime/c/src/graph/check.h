/*
 * ONNX graphs from strangers, looked through before ONNX Runtime sees them.
 *
 * A graph's tensor may say that its values lie in another file, at a path that the graph chooses: a bundle could
 * show the user's files as pixels. Other graphs crash or hang a library, or take all memory. So the whole model is
 * read, and passes when it is one flat list of allowed operators over tensors of the types that tv-export writes,
 * complete in itself, with sizes within limits: the rules of textual_vision.runtime.graph.check.
 */
#ifndef TV_GRAPH_CHECK_H
#define TV_GRAPH_CHECK_H

#include "base/text.h"

/* TV_INTEGRITY, naming the file `name`, unless `graph` is as tv-export writes it; TV_FAILED. */
int tv_graph_check(const void *graph, size_t bytes, tv_text name);

#endif
