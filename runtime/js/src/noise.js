/**
 * Noise from a seed, by the recipe of docs/reference/noise.md: the same bits as in Python and C.
 *
 * JavaScript's doubles round each + − × ÷ √ as the recipe asks; `Math.log` is not used, since engines differ.
 */
export const RECIPE = "philox4x32-10-as241";
export const LAWS = ["normal", "truncated_normal", "uniform", "gumbel"];

const CENTER_LIMIT = 0.425;
const CENTER_SQUARE = 0.180625;
const TAIL_SHIFT = 1.6;
const SQRT_HALF = 0.7071067811865476;
const LN_2 = 0.6931471805599453;
const STEP_BITS = 20;
// Highest power first.
const CENTER_NUMERATOR = [
  2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
  1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
];
const CENTER_DENOMINATOR = [
  5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
  687.1870074920579083, 42.313330701600911252, 1.0,
];
const TAIL_NUMERATOR = [
  7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
  3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
];
const TAIL_DENOMINATOR = [
  1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
  0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0,
];
const LOG_COEFFICIENTS = [21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1].map((odd) => 1 / odd);

/** `count` float32 values of the noise tensor number `tensor` under a seed (BigInt, 64 bits). */
export function noiseFromSeed(seed, count, { tensor = 0, step = 0, law = "normal", scale = 1, tail = null } = {}) {
  const out = new Float32Array(count);
  const factor = Math.fround(scale);
  const keys = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  for (let block = 0; 4 * block < count; block++) {
    const counter = [block >>> 0, Math.floor(block / 2 ** 32), 0, ((tensor << STEP_BITS) | step) >>> 0];
    const words = philox(counter, keys);
    for (let place = 0; place < 4 && 4 * block + place < count; place++) {
      const value = Math.fround(valueOfLaw(words[place], law, tail));
      out[4 * block + place] = scale === 1 ? value : Math.fround(value * factor);
    }
  }
  return out;
}

function valueOfLaw(word, law, tail) {
  const uniform = (word + 0.5) * 2 ** -32;
  if (law === "uniform") return ((word >>> 9) + 0.5) * 2 ** -23;
  if (law === "truncated_normal") return normal(tail + uniform * (1 - 2 * tail));
  if (law === "gumbel") return -log(-log(uniform));
  return normal(uniform);
}

/** Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
function philox([c0, c1, c2, c3], [k0, k1]) {
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = product(0xd2511f53, c0);
    const [high1, low1] = product(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The high and the low 32 bits of a product of two 32-bit numbers. */
function product(a, b) {
  const whole = BigInt(a) * BigInt(b);
  return [Number(whole >> 32n), Number(whole & 0xffffffffn)];
}

/** Wichura, "Algorithm AS 241", PPND16, Appl. Statist. 37, 1988. */
function normal(uniform) {
  const fromHalf = uniform - 0.5;
  if (Math.abs(fromHalf) <= CENTER_LIMIT) {
    const r = CENTER_SQUARE - fromHalf * fromHalf;
    return (polynomial(CENTER_NUMERATOR, r) * fromHalf) / polynomial(CENTER_DENOMINATOR, r);
  }
  const r = Math.sqrt(-log(fromHalf < 0 ? uniform : 1 - uniform)) - TAIL_SHIFT;
  const size = polynomial(TAIL_NUMERATOR, r) / polynomial(TAIL_DENOMINATOR, r);
  return fromHalf < 0 ? -size : size;
}

/** e·ln 2 + 2·artanh s with x = m·2ᵉ and s = (m − 1) / (m + 1), as a series in s². */
function log(x) {
  let m = x;
  let power = 0;
  while (m < 0.5) {
    m *= 2;
    power -= 1;
  }
  while (m >= 1) {
    m /= 2;
    power += 1;
  }
  if (m < SQRT_HALF) {
    m *= 2;
    power -= 1;
  }
  const s = (m - 1) / (m + 1);
  return power * LN_2 + s * 2 * polynomial(LOG_COEFFICIENTS, s * s);
}

function polynomial(coefficients, x) {
  let total = coefficients[0];
  for (let index = 1; index < coefficients.length; index++) total = total * x + coefficients[index];
  return total;
}
