/** A prompt as plain text: emoji by their names, then NFKC, as in Python (runtime/text/prompt_text.py). */
const LONGEST_EMOJI = 10;
const FIRST_EMOJI = 0xa9;

/** The names in emoji_names.txt, by sequence of characters. */
export function emojiNamesFromText(text) {
  const pairs = text.split("\n").filter(Boolean).map((line) => line.split("\t"));
  const sequence = (key) => String.fromCodePoint(...key.split("-").map((one) => parseInt(one, 16)));
  return new Map(pairs.map(([key, name]) => [sequence(key), name]));
}

/** `prompt` with names for emoji, in NFKC; emoji that `isToken` knows stay. */
export function plainPrompt(prompt, names, isToken) {
  const characters = [...prompt].filter((one) => !isDropped(one.codePointAt(0)));
  const parts = [];
  let afterName = false;
  for (let place = 0; place < characters.length; ) {
    const length = emojiLength(characters, place, names, isToken);
    const sequence = characters.slice(place, place + (length || 1)).join("");
    const part = length ? names.get(sequence) : sequence;
    if (parts.length && (length || afterName) && part !== " " && parts.at(-1) !== " ") parts.push(" ");
    parts.push(part);
    place += length || 1;
    afterName = length > 0;
  }
  return parts.join("").normalize("NFKC");
}

function isDropped(code) {
  return code === 0xfe0f || (code >= 0x1f3fb && code <= 0x1f3ff);
}

function emojiLength(characters, place, names, isToken) {
  if (characters[place].codePointAt(0) < FIRST_EMOJI) return 0;
  for (let length = Math.min(LONGEST_EMOJI, characters.length - place); length > 0; length--) {
    const found = characters.slice(place, place + length).join("");
    if (names.has(found)) return isToken(found) ? 0 : length;
  }
  return 0;
}
