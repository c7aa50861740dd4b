"""ONNX graphs: opsets, names, weights, the joined graph."""
