"""The ONNX operators that a bundle's graphs may use: those that compute tensors from tensors.

Not among them: control flow (If, Loop, Scan), randomness, sequences, optional values, strings, images in
files, losses, and integer operators that our export writes as Q/DQ instead.
"""

from __future__ import annotations


def _operators(names: str) -> frozenset[str]:
    return frozenset(names.split())


ALLOWED = _operators(
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu
    CenterCropPad Clip Col2Im Compress Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh
    CumSum DFT DeformConv DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand EyeLike
    Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax
    Identity InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
    Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod
    Mul Neg NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN Range Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RotaryEmbedding Round ScatterElements ScatterND
    Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
    Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """
)

# Their result has the first input's type.
MOVES = _operators(
    """
    Compress DepthToSpace Flatten Gather GatherElements GatherND Identity Reshape Slice SpaceToDepth
    Split Squeeze Transpose Unsqueeze
    """
)

# Their result has at least as many elements as each input.
KEEPS_SIZE = _operators(
    """
    Abs Add And Cast Ceil Clip Concat DepthToSpace DequantizeLinear Div Elu Equal Erf Exp Expand Flatten
    Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity LayerNormalization LeakyRelu Less
    LessOrEqual Log Max Min Mul Neg Not Or Pow QuantizeLinear Relu Reshape Round Sigmoid Sin Softmax
    SpaceToDepth Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze Where
    """
)
