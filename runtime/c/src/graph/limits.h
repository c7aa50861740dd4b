/* Limits of what a graph may compute, as in textual_vision.runtime.graph.check. */
#ifndef TV_GRAPH_LIMITS_H
#define TV_GRAPH_LIMITS_H

#include "graph/model.h"

#define TV_GRAPH_ELEMENTS_LIMIT 67108864.0 /* 2^26, of a tensor whose size the file gives */

/* Scales and zero points are constants that fit the tensors that they scale: backends trust them unchecked. */
bool tv_quantization_check(tv_graph_reader *reader, tv_graph_model *model);

/* No tensor is larger than the limit, as far as constants tell: a lower bound of each one's elements. */
bool tv_growth_check(tv_graph_reader *reader, tv_graph_model *model);

#endif
