export {
  codeTable,
  dequantizeBlockwise,
  quantizeBlockwise,
  type BlockwiseCodes,
  type BlockwiseScheme,
} from './blockwise.ts';
export { dynamicMap } from './dynamic-map.ts';
export { fakeQuantize, fakeQuantizeTokens, fakeQuantizeWeight } from './fake-quantize.ts';
export {
  affineParameters,
  codeProblems,
  codeRange,
  dequantize,
  dequantizeWeight,
  packInt4,
  quantize,
  quantizeWeight,
  schemeProblems,
  unpackInt4,
  type AffineParameters,
  type Bits,
  type CodeScheme,
  type QuantizedWeight,
  type WeightScheme,
} from './min-max.ts';
export {
  dequantizeNf4,
  dequantizeNf4Codes,
  nf4Absmax,
  nf4BlockSize,
  nf4Table,
  quantizeNf4,
  type Nf4Tensors,
  type Nf4Weight,
} from './nf4.ts';
export { fakeQuantizeAbsmax, fakeQuantizeTernary, packTernary, ternaryCodes, unpackTernary } from './ternary.ts';
