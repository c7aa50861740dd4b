/* The ONNX operators that a bundle's graphs may use, as in textual_vision.runtime.graph.operators. */
#ifndef TV_OPERATORS_H
#define TV_OPERATORS_H

#include "base/text.h"

/* Operators that compute tensors from tensors: no control flow, randomness, sequences, strings, losses. */
bool tv_is_allowed_operator(tv_text name);

/* The result has the first input's type. */
bool tv_operator_moves(tv_text name);

/* The result has at least as many elements as each input. */
bool tv_operator_keeps_size(tv_text name);

#endif
