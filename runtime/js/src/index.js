/** Pictures from prompts with an exported bundle. `ort` is onnxruntime-node or onnxruntime-web. */
import { IntegrityError, UsageError } from "./errors.js";
import { LAWS, RECIPE, noiseFromSeed } from "./noise.js";
import { runUnit, unitsOf } from "./program.js";
import { emojiNamesFromText } from "./prompt_text.js";
import { Tokenizer } from "./tokenizer.js";

export { IntegrityError, TextualVisionError, UsageError } from "./errors.js";
export { noiseFromSeed } from "./noise.js";

const SCHEMA_VERSION = 1;
const SEED_LIMIT = 2n ** 64n;
const PYTHON_HINT = "generate with textual_vision.runtime in Python, which runs all that a manifest declares";
const AGAIN_HINT = "copy the bundle again, or export it again";

/** A bundle below a web address: reads a file as Uint8Array. */
export function filesOfUrl(address) {
  return async (name) => {
    const answer = await fetch(new URL(name, new URL(address, document.baseURI)));
    if (!answer.ok) throw new IntegrityError(`${name}: the server answers ${answer.status}`, AGAIN_HINT);
    return new Uint8Array(await answer.arrayBuffer());
  };
}

export class TextToImage {
  /**
   * Load a bundle. `read` gives a file's bytes by its path in the bundle (filesOfFolder, filesOfUrl).
   * Every file's size and SHA-256 are checked. Throws UsageError and IntegrityError.
   */
  static async load(read, ort, { precision, namesText, sessionOptions = {} } = {}) {
    const manifest = parsed(await read("manifest.json"), "manifest.json");
    checkManifest(manifest);
    const chosen = precision ?? manifest.default_precision;
    if (!Object.hasOwn(manifest.precisions, chosen)) {
      const choices = Object.keys(manifest.precisions).join(", ");
      throw new UsageError(`the bundle has no precision '${chosen}'`, `choose one of: ${choices}`);
    }
    const names = emojiNamesFromText(namesText ?? (await defaultNames()));
    const file = async (path) => checkedFile(await read(path), path, manifest);
    let tokenizer = null;
    if (manifest.text) {
      const data = parsed(await file(manifest.text.tokenizer), manifest.text.tokenizer);
      tokenizer = new Tokenizer(data, manifest.text, names);
    }
    const sessions = new Map();
    for (const stage of manifest.stages) {
      const graph = await file(manifest.precisions[chosen].files[stage.name]);
      const options = {
        executionProviders: ["cpu"],
        extra: { session: { x64quantprecision: "1", force_spinning_stop: "1" } },
        ...sessionOptions,
      };
      sessions.set(stage.name, await ort.InferenceSession.create(graph, options));
    }
    return new TextToImage(manifest, chosen, ort, tokenizer, sessions);
  }

  constructor(manifest, precision, ort, tokenizer, sessions) {
    Object.assign(this, { manifest, precision, ort, tokenizer, sessions, units: unitsOf(manifest) });
  }

  /**
   * One picture of a prompt (or of a label, by name or number) and a seed, a BigInt or a safe integer.
   * Gives `pixels` Uint8Array (height × width × 3), `codes` BigInt64Array or null, and `unknown` words.
   */
  async generate(prompt, seed = 0n) {
    const { tensors, unknown, cut } = this.#condition(prompt);
    const number = seedFrom(seed);
    this.#putNoise(tensors, number, null);
    for (const { name, default: value } of this.manifest.parameters ?? []) {
      tensors.set(name, new this.ort.Tensor("float32", Float32Array.of(value), [1]));
    }
    const runStage = (stage, known) => this.#runStage(stage, known);
    const putNoise = (known, step) => this.#putNoise(known, number, step);
    for (const unit of this.units) await runUnit(unit, tensors, this.ort, runStage, putNoise);
    const { height, width } = this.manifest.image;
    return { height, width, pixels: tensors.get("image").data, codes: tensors.get("codes")?.data ?? null, unknown, cut };
  }

  async #runStage(stage, tensors) {
    const missing = stage.inputs.find(({ name }) => !tensors.has(name));
    if (missing) {
      throw new IntegrityError(`'${stage.name}' needs '${missing.name}', which no stage before it gives`, AGAIN_HINT);
    }
    const feeds = Object.fromEntries(stage.inputs.map(({ name }) => [name, tensors.get(name)]));
    const outputs = await this.sessions.get(stage.name).run(feeds);
    for (const spec of stage.outputs) {
      checkTensor(stage, spec, outputs[spec.name]);
      tensors.set(spec.name, outputs[spec.name]);
    }
  }

  #condition(prompt) {
    const tensors = new Map();
    const put = (name, values, shape) => {
      const numbers = BigInt64Array.from(values, BigInt);
      tensors.set(name, new this.ort.Tensor("int64", numbers, shape));
    };
    if (this.manifest.labels) put("label", [labelNumber(this.manifest.labels.names, prompt)], [1]);
    if (!this.tokenizer) return { tensors, unknown: [], cut: false };
    const { ids, unknown, cut } = this.tokenizer.encode(prompt);
    const { max_tokens, fixed_length, pad_id } = this.manifest.text;
    const length = fixed_length ? max_tokens : ids.length;
    const padding = Array(length - ids.length).fill(0);
    put("input_ids", [...ids, ...padding.map(() => pad_id)], [1, length]);
    put("attention_mask", [...ids.map(() => 1), ...padding], [1, length]);
    put("lengths", [ids.length], [1]);
    return { tensors, unknown, cut };
  }

  /** The noise of a loop's step, or with null the noise that is drawn once. */
  #putNoise(tensors, seed, step) {
    this.manifest.noise.forEach((spec, tensor) => {
      if ((spec.per_step ?? false) !== (step !== null)) return;
      const count = spec.shape.reduce((product, size) => product * size, 1);
      const values = noiseFromSeed(seed, count, { ...spec, tensor, step: step ?? 0 });
      tensors.set(spec.name ?? "noise", new this.ort.Tensor("float32", values, [1, ...spec.shape]));
    });
  }
}

function seedFrom(seed) {
  const number = typeof seed === "bigint" || Number.isSafeInteger(seed) ? BigInt(seed) : -1n;
  if (number < 0n || number >= SEED_LIMIT) {
    throw new UsageError(`seed ${String(seed)} is not an integer of 64 bits`, "give a BigInt or a safe integer");
  }
  return number;
}

function labelNumber(names, given) {
  const number = names.includes(given) ? names.indexOf(given) : /^\d{1,9}$/.test(String(given)) ? Number(given) : -1;
  if (number < 0 || number >= names.length) {
    throw new UsageError(`no label ${JSON.stringify(given)}`, "give a label's name, or its number from 0 on");
  }
  return number;
}

function checkManifest(manifest) {
  if (manifest.schema_version !== SCHEMA_VERSION) {
    throw new IntegrityError(`manifest.schema_version: this client reads ${SCHEMA_VERSION}`, "export it again");
  }
  const cannot =
    ((manifest.image.channels ?? 3) !== 3 && "manifest.image.channels: this client makes 3 channels") ||
    (manifest.text?.drop_unknown && "manifest.text.drop_unknown: this client keeps unknown words") ||
    (manifest.noise.some((one) => (one.recipe ?? RECIPE) !== RECIPE || !LAWS.includes(one.law ?? "normal")) && "manifest.noise: unknown recipe");
  if (cannot) throw new IntegrityError(cannot, PYTHON_HINT);
}

function parsed(bytes, name) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new IntegrityError(`${name}: not valid JSON`, AGAIN_HINT);
  }
}

async function checkedFile(bytes, name, manifest) {
  const spec = Object.hasOwn(manifest.files, name) ? manifest.files[name] : null;
  const digest = new Uint8Array(await globalThis.crypto.subtle.digest("SHA-256", bytes));
  const found = [...digest].map((one) => one.toString(16).padStart(2, "0")).join("");
  if (!spec || bytes.length !== spec.bytes || found !== spec.sha256) {
    throw new IntegrityError(`${name}: its content is not what the manifest promises (SHA-256)`, AGAIN_HINT);
  }
  return bytes;
}

function checkTensor(stage, spec, tensor) {
  const fits = (size, index) => typeof spec.shape[index] === "string" || spec.shape[index] === size;
  const inRange = (one) => one >= 0 && Number(one) < spec.limit;
  const good =
    tensor.type === spec.dtype &&
    tensor.dims.length === spec.shape.length &&
    tensor.dims.every(fits) &&
    (spec.limit == null || tensor.data.every(inRange));
  if (!good) throw new IntegrityError(`stage '${stage.name}': '${spec.name}' is not as the manifest says`, AGAIN_HINT);
}

async function defaultNames() {
  const address = new URL("./emoji_names.txt", import.meta.url);
  if (address.protocol !== "file:") return (await fetch(address)).text();
  const { readFile } = await import("node:fs/promises");
  return readFile(address, "utf-8");
}
