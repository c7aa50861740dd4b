/** Prompts into token ids: a tokenizer.json of the BERT kind. Special tokens that a user types are text. */
import { IntegrityError, UsageError } from "./errors.js";
import { plainPrompt } from "./prompt_text.js";

const PYTHON_HINT = "generate with textual_vision.runtime in Python";
const EMPTY_HINT = 'say what to draw, for example "dog wearing sunglasses"';
const KINDS = {
  normalizer: ["BertNormalizer"],
  pre_tokenizer: ["BertPreTokenizer"],
  post_processor: ["TemplateProcessing", "BertProcessing"],
  model: ["WordPiece"],
};
const CHINESE = [
  [0x3400, 0x4dbf], [0x4e00, 0x9fff], [0xf900, 0xfaff], [0x20000, 0x2a6df],
  [0x2a700, 0x2b73f], [0x2b740, 0x2b81f], [0x2b920, 0x2ceaf], [0x2f800, 0x2fa1f],
];
const ASCII_PUNCTUATION = /[!-/:-@[-`{-~]/;

export class Tokenizer {
  /** `file` is the parsed tokenizer.json, `text` the manifest's; raises IntegrityError for another kind. */
  constructor(file, text, names) {
    for (const [part, kinds] of Object.entries(KINDS)) {
      if (!kinds.includes(file[part]?.type)) {
        throw new IntegrityError(`${part}.type is ${file[part]?.type}; this client reads ${kinds}`, PYTHON_HINT);
      }
    }
    this.names = names;
    this.text = text;
    this.normalizer = file.normalizer;
    this.model = file.model;
    this.vocabulary = new Map(Object.entries(file.model.vocab));
    [this.before, this.after] = specialIds(file.post_processor);
  }

  /** The ids of one prompt with the special tokens around them, the unknown words, and whether it was cut. */
  encode(prompt) {
    if (typeof prompt !== "string") throw new UsageError(`a prompt of type ${typeof prompt}`, "give a string");
    const plain = plainPrompt(prompt, this.names, (text) => this.vocabulary.has(text));
    const words = this.#words(this.#normalized(plain));
    const room = this.text.max_tokens - this.before.length - this.after.length;
    const found = words.flatMap((word) => this.#pieces(word).map((id) => ({ id, word })));
    if (!found.length) throw new UsageError(`the prompt ${JSON.stringify(prompt)} is empty`, EMPTY_HINT);
    const kept = found.slice(0, room);
    const unknown = kept.filter((one) => one.id === this.text.unknown_id).map((one) => one.word);
    const ids = [...this.before, ...kept.map((one) => one.id), ...this.after];
    return { ids, unknown: [...new Set(unknown)], cut: found.length > room };
  }

  #normalized(text) {
    const { clean_text, handle_chinese_chars, lowercase } = this.normalizer;
    const strip = this.normalizer.strip_accents ?? lowercase;
    let letters = [...text];
    if (clean_text) letters = letters.filter((one) => !isRemoved(one)).map((one) => (isSpace(one) ? " " : one));
    if (handle_chinese_chars) letters = letters.map((one) => (isChinese(one) ? ` ${one} ` : one));
    let made = letters.join("");
    if (strip) made = made.normalize("NFD").replace(/\p{Mn}/gu, "");
    return lowercase ? [...made].map((one) => one.toLowerCase()).join("") : made;
  }

  /** Words end at white space; a punctuation mark is a word of its own. */
  #words(text) {
    const words = [];
    let word = "";
    const end = () => {
      if (word) words.push(word);
      word = "";
    };
    for (const letter of text) {
      if (/\s/u.test(letter) || letter === "\u0085") end();
      else if (ASCII_PUNCTUATION.test(letter) || /\p{P}/u.test(letter)) {
        end();
        words.push(letter);
      } else word += letter;
    }
    end();
    return words;
  }

  /** The longest piece first; a word with any part that is no piece is unknown as a whole. */
  #pieces(word) {
    const letters = [...word];
    const unknown = [this.vocabulary.get(this.model.unk_token)];
    if (letters.length > this.model.max_input_chars_per_word) return unknown;
    const ids = [];
    for (let first = 0; first < letters.length; ) {
      let last = letters.length;
      const prefix = first ? this.model.continuing_subword_prefix : "";
      const piece = () => prefix + letters.slice(first, last).join("");
      while (last > first && !this.vocabulary.has(piece())) last--;
      if (last === first) return unknown;
      ids.push(this.vocabulary.get(piece()));
      first = last;
    }
    return ids;
  }
}

/** What the post-processor puts before and after a prompt. */
function specialIds(processor) {
  if (processor.type === "BertProcessing") return [[processor.cls[1]], [processor.sep[1]]];
  const place = processor.single.findIndex((one) => one.Sequence);
  const ids = (parts) => parts.flatMap((part) => processor.special_tokens[part.SpecialToken.id].ids);
  return [ids(processor.single.slice(0, place)), ids(processor.single.slice(place + 1))];
}

function isRemoved(letter) {
  const code = letter.codePointAt(0);
  if (code === 0 || code === 0xfffd) return true;
  if (letter === "\t" || letter === "\n" || letter === "\r") return false;
  return /[\p{Cc}\p{Cf}\p{Cn}\p{Co}]/u.test(letter);
}

function isSpace(letter) {
  return /[\t\n\r\p{White_Space}]/u.test(letter);
}

function isChinese(letter) {
  const code = letter.codePointAt(0);
  return CHINESE.some(([first, last]) => code >= first && code <= last);
}
