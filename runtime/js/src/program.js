/**
 * The order in which stages run, loops among them, as in Python's `generation/program.py`.
 *
 * Tensors are kept in a Map by name. What a loop carries, its tables and its noise are known within it alone.
 */
import { IntegrityError } from "./errors.js";

const BATCH = "batch";
const STEPS_LIMIT = 4096;
const AGAIN_HINT = "export the bundle again";
const ARRAYS = {
  float32: Float32Array,
  int64: BigInt64Array,
  int32: Int32Array,
  uint8: Uint8Array,
  int8: Int8Array,
  bool: Uint8Array,
};

/** Stages and loops in running order: `{ stages, loop }`, `loop` null for a stage that runs once. */
export function unitsOf(manifest) {
  const loopOf = new Map((manifest.loops ?? []).flatMap((loop) => loop.stages.map((name) => [name, loop])));
  const units = [];
  for (let index = 0; index < manifest.stages.length; ) {
    const loop = loopOf.get(manifest.stages[index].name) ?? null;
    const stages = manifest.stages.slice(index, index + (loop ? loop.stages.length : 1));
    if (loop) checkLoop(loop, stages);
    units.push({ stages, loop });
    index += stages.length;
  }
  return units;
}

function checkLoop(loop, stages) {
  const refuse = (problem) => {
    throw new IntegrityError(`loop '${loop.name}': ${problem}`, AGAIN_HINT);
  };
  const names = stages.map((stage) => stage.name);
  if (names.join("\n") !== loop.stages.join("\n")) refuse("its stages do not follow each other");
  if (!(Number.isInteger(loop.steps) && loop.steps >= 1 && loop.steps <= STEPS_LIMIT)) {
    refuse(`its steps are not between 1 and ${STEPS_LIMIT}`);
  }
  const inputs = new Set(stages.flatMap((stage) => stage.inputs.map((spec) => spec.name)));
  const outputs = new Set(stages.flatMap((stage) => stage.outputs.map((spec) => spec.name)));
  for (const [name, source] of Object.entries(loop.carry)) {
    const start = Object.hasOwn(loop.start, name) ? loop.start[name] : {};
    const one = (start.tensor == null) !== (start.fill == null);
    if (!inputs.has(name) || !outputs.has(source) || !one) refuse(`it cannot carry '${name}'`);
  }
  for (const [name, table] of Object.entries(loop.tables ?? {})) {
    if (!inputs.has(name) || table.length !== loop.steps) refuse(`the table of '${name}' does not fit`);
  }
}

/**
 * Put the outputs of a unit's stages among `tensors`; of a loop those of its last step. `runStage(stage, tensors)`
 * puts a stage's outputs among them, `putNoise(tensors, step)` the noise of a step.
 */
export async function runUnit({ stages, loop }, tensors, ort, runStage, putNoise) {
  if (loop === null) return runStage(stages[0], tensors);
  const inputs = new Map(stages.flatMap((stage) => stage.inputs.map((spec) => [spec.name, spec])));
  const known = new Map(tensors);
  for (const [name, { tensor, fill }] of Object.entries(loop.start)) {
    known.set(name, tensor == null ? filled(ort, inputs.get(name), fill) : found(tensors, tensor, loop));
  }
  for (let step = 0; step < loop.steps; step++) {
    for (const [name, table] of Object.entries(loop.tables ?? {})) {
      known.set(name, filled(ort, inputs.get(name), table[step]));
    }
    putNoise(known, step);
    for (const stage of stages) await runStage(stage, known);
    const next = Object.entries(loop.carry).map(([name, source]) => [name, known.get(source)]);
    for (const [name, value] of next) known.set(name, value);
  }
  for (const stage of stages) for (const { name } of stage.outputs) tensors.set(name, known.get(name));
}

function found(tensors, name, loop) {
  if (tensors.has(name)) return tensors.get(name);
  throw new IntegrityError(`loop '${loop.name}': no stage before it gives '${name}'`, AGAIN_HINT);
}

/** The tensor of `spec` for one picture that holds `value` everywhere, rounded as numpy rounds. */
function filled(ort, spec, value) {
  const shape = spec.shape.map((size) => (size === BATCH ? 1 : size));
  if (shape.some((size) => typeof size === "string")) {
    throw new IntegrityError(`'${spec.name}' cannot begin with a number: only its batch may vary`, AGAIN_HINT);
  }
  const count = shape.reduce((product, size) => product * size, 1);
  if (spec.dtype === "float16") {
    return new ort.Tensor("float16", new Uint16Array(count).fill(halfFromNumber(value)), shape);
  }
  const array = new ARRAYS[spec.dtype](count);
  if (spec.dtype === "int64") array.fill(BigInt(Math.trunc(value)));
  else array.fill(spec.dtype === "bool" ? Number(value !== 0) : value);
  return new ort.Tensor(spec.dtype, array, shape);
}

/** The bits of IEEE 754 binary16, to the nearest, ties to even. */
export function halfFromNumber(value) {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const size = Math.abs(value);
  if (size >= 65520) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | roundedToEven(size * 2 ** 24);
  let power = Math.floor(Math.log2(size));
  if (2 ** power > size) power -= 1;
  if (2 ** (power + 1) <= size) power += 1;
  return sign | (((power + 14) << 10) + roundedToEven(size * 2 ** (10 - power)));
}

function roundedToEven(number) {
  const below = Math.floor(number);
  const rest = number - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? below + 1 : below;
}
