// Answers the tests: reads a JSON question from the standard input, prints a JSON answer.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { TextToImage } from "../../../runtime/js/src/index.js";
import { filesOfFolder } from "../../../runtime/js/src/node.js";
import { noiseFromSeed } from "../../../runtime/js/src/noise.js";
import { halfFromNumber } from "../../../runtime/js/src/program.js";
import { emojiNamesFromText } from "../../../runtime/js/src/prompt_text.js";
import { Tokenizer } from "../../../runtime/js/src/tokenizer.js";

const NAMES = new URL("../../../runtime/js/src/emoji_names.txt", import.meta.url);

const answers = {
  tokens({ file, text, prompts }) {
    const names = emojiNamesFromText(readFileSync(NAMES, "utf-8"));
    const tokenizer = new Tokenizer(file, text, names);
    return prompts.map((prompt) => {
      try {
        return tokenizer.encode(prompt).ids;
      } catch (error) {
        return error.exitCode;
      }
    });
  },
  noise({ seed, count, law }) {
    const bits = new Uint32Array(noiseFromSeed(BigInt(seed), count, law).buffer);
    return [...bits];
  },
  halves: ({ numbers }) => numbers.map(halfFromNumber),
  async draw({ modules, bundle, precision, jobs }) {
    const ort = createRequire(`${modules}/`)("onnxruntime-node");
    const model = await TextToImage.load(filesOfFolder(bundle), ort, { precision });
    const drawn = [];
    for (const [prompt, seed] of jobs) {
      const { pixels, codes } = await model.generate(prompt, BigInt(seed));
      drawn.push({ pixels: [...pixels], codes: codes && [...codes].map(Number) });
    }
    return drawn;
  },
};

const question = JSON.parse(readFileSync(0, "utf-8"));
try {
  const answer = await answers[question.kind](question);
  process.stdout.write(JSON.stringify({ answer }));
} catch (error) {
  process.stdout.write(JSON.stringify({ error: error.exitCode ?? String(error), message: error.message }));
}
