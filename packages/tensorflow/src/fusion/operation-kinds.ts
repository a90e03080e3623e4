/** What fusion makes of each type of operation; of types that stand nowhere here nothing is known. */

const words = (text: string) => new Set(text.split(' '));

/** Each element of the result is a function of one element of each input (or of one that is broadcast to it). */
export const elementwise = words(
  'Abs Add AddN AddV2 Cast Equal Exp Floor Greater GreaterEqual Less LessEqual Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum ' +
    'Bitcast BitwiseAnd BitwiseXor RightShift Mul Neg NotEqual OnesLike Pow RealDiv Reciprocal Relu Round Rsqrt Select SelectV2 Sigmoid Sign Sqrt Square SquaredDifference Sub Tanh ZerosLike',
);
/** The same elements in other places. */
export const moves = words(
  'BroadcastTo ConcatV2 ExpandDims Fill Identity PadV2 Range Reshape Slice Split SplitV Squeeze Tile Transpose',
);
export const reductions = words('L2Loss Max Mean Min Prod Sum');
/** Products that XLA makes, and TensorFlow by itself cannot. */
export const products = words('XlaDotV2');
/** Operations that XLA does not repeat for each value that needs their result. */
export const dear = words('Exp Log Log1p Pow Sigmoid Tanh');
/** What is worth writing down rather than making twice. */
export const isMadeOnce = (type: string) => reductions.has(type) || products.has(type);
/** Not a pass over their inputs: they look at them in another shape, or at a part. */
export const views = words('Const ExpandDims Identity Reshape Slice Split SplitV Squeeze');
