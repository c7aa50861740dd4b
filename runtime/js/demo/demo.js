import * as ort from "./ort/ort.wasm.min.mjs";
import { TextToImage, filesOfUrl } from "./src/index.js";

const form = document.querySelector("form");
const given = new URLSearchParams(location.search);
for (const field of ["prompt", "seed"]) if (given.has(field)) form[field].value = given.get(field);
ort.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
ort.env.wasm.numThreads = 1; // more need a page that is isolated from other origins

const show = (text) => (document.querySelector("#status").textContent = text);

async function generate(model) {
  show("generating …");
  const { height, width, pixels, codes, unknown } = await model.generate(form.prompt.value, BigInt(form.seed.value));
  const canvas = Object.assign(document.querySelector("canvas"), { height, width });
  const image = new ImageData(width, height);
  for (let place = 0; place < height * width; place++) {
    image.data.set(pixels.subarray(3 * place, 3 * place + 3), 4 * place);
    image.data[4 * place + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  document.querySelector("#save").href = canvas.toDataURL();
  document.querySelector("#codes").textContent = codes ? [...codes].join(" ") : "";
  show(unknown.length ? `not in the vocabulary: ${unknown.join(", ")}` : "done");
}

const failed = (error) => show(`${error.message}. ${error.hint ?? ""}`);
try {
  const model = await TextToImage.load(filesOfUrl("emoji.tv/"), ort, { precision: given.get("precision") ?? undefined });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    generate(model).catch(failed);
  });
  await generate(model);
} catch (error) {
  failed(error);
}
