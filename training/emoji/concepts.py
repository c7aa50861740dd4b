"""The meaning of icons: one `Emoji` for each code point sequence, with its captions and concept."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from textual_vision.training.emoji.npm_packages import EmojiText, IconSet

RARE_TAG = 3  # concepts; a tag of at most this many is nearly a name: "puppy", not "animal"
TAGS_PER_CAPTION = 3
UNPICTURED_GROUPS = frozenset({"component", "symbols", "flags"})  # glyphs and signs, not pictures

_VARIATION, _JOINER = "FE0F", "200D"
_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
_SIGNS = frozenset({"2640", "2642", "27A1"})  # woman, man, facing right
_NEUTRAL = {
    "1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2",
    "1F474": "1F9D3", "1F475": "1F9D3",
}  # fmt: skip
# Families and couples differ only in their members.
_BY_LABEL = (
    ("family", "1F46A"),
    ("kiss:", "1F48F"),
    ("couple with heart", "1F491"),
    ("men holding hands", "1F46B"),
    ("women holding hands", "1F46B"),
    ("people holding hands", "1F46B"),
)


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji; `concept` is shared by its skin tones, genders and directions."""

    hexcode: str
    concept: str
    label: str
    captions: tuple[str, ...]
    group: str
    subgroup: str
    tone: str  # "" or the words for a skin tone


def concept_from_hexcode(hexcode: str, label: str = "") -> str:
    """The concept of an emoji: its code points without tone, gender, direction and variation selector."""
    for start, concept in _BY_LABEL:
        if label.startswith(start):
            return concept
    parts = [_NEUTRAL.get(part, part) for part in hexcode.upper().split("-")]
    kept = [part for part in parts if part not in _TONES | _SIGNS | {_VARIATION}]
    while kept and kept[-1] == _JOINER:
        kept.pop()
    return "-".join(kept)


def plain_hexcode(hexcode: str) -> str:
    """A hexcode in upper case without variation selectors, which differ between icon sets."""
    return "-".join(part for part in hexcode.upper().split("-") if part != _VARIATION)


def emoji_from_text(text: EmojiText, *, tones: bool = False) -> dict[str, Emoji]:
    """Every picture-like, labeled emoji by its plain hexcode; skin-tone variants only with `tones`."""
    listed = [entry for entry in text.emoji if _pictured(entry, text)]
    rarity = Counter(tag for entry in listed for tag in set(entry.get("tags", ())))
    taken = {entry["label"].lower() for entry in listed}
    found = {}
    for entry in listed:
        base = _emoji(entry, text, rarity, taken)
        found[base.hexcode] = base
        for skin in entry.get("skins", ()) if tones else ():
            toned = _toned(base, skin)
            found[toned.hexcode] = toned
    return found


def _pictured(entry: Mapping[str, Any], text: EmojiText) -> bool:
    group = text.groups.get(entry.get("group", -1))
    return bool(entry.get("label")) and group is not None and group not in UNPICTURED_GROUPS


def _emoji(entry: Mapping[str, Any], text: EmojiText, rarity: Counter[str], taken: set[str]) -> Emoji:
    label = entry["label"].lower()
    hexcode = plain_hexcode(entry["hexcode"])
    shortcodes = text.shortcodes.get(entry["hexcode"], text.shortcodes.get(hexcode, ()))
    tags = [tag for tag in entry.get("tags", ()) if tag not in label.split()]
    return Emoji(
        hexcode=hexcode,
        concept=concept_from_hexcode(hexcode, label),
        label=label,
        captions=_captions(label, shortcodes, tags, rarity, taken - {label}),
        group=text.groups[entry["group"]],
        subgroup=text.subgroups.get(entry.get("subgroup", -1), ""),
        tone="",
    )


def _captions(
    label: str, shortcodes: Iterable[str], tags: list[str], rarity: Counter[str], others: set[str]
) -> tuple[str, ...]:
    """Captions of an emoji, the label first, without those that are labels of other emoji."""
    words = [" ".join(code.replace("_", " ").replace("-", " ").split()) for code in shortcodes]
    worded = [word for word in words if re.fullmatch(r"[a-z][a-z ]{2,}", word)]
    near_names = [tag for tag in tags if rarity[tag] <= RARE_TAG and re.fullmatch(r"[a-z][a-z '-]{2,}", tag)]
    described = f"{label}, {', '.join(tags[:TAGS_PER_CAPTION])}" if tags else label
    phrasings = (label, with_article(label), *worded, *near_names, described)
    return tuple(dict.fromkeys(phrase for phrase in phrasings if phrase not in others))


def with_article(words: str) -> str:
    """ "a dog face", "an owl"; words that look plural or are not a plain noun get no article."""
    first, last = words.split()[0], words.split()[-1]
    if not first.isalpha() or (last.endswith("s") and not last.endswith("ss")):
        return words
    return f"{'an' if first[0] in 'aeiou' else 'a'} {words}"


def _toned(base: Emoji, skin: Mapping[str, Any]) -> Emoji:
    label = skin["label"].lower()
    tone = label.partition(": ")[2] or "skin tone"
    captions = (label, f"{base.label} with {tone}")
    hexcode = plain_hexcode(skin["hexcode"])
    return Emoji(
        hexcode=hexcode,
        concept=base.concept,
        label=label,
        captions=captions,
        group=base.group,
        subgroup=base.subgroup,
        tone=tone,
    )


def slug(words: str) -> str:
    """The letters and digits of `words`, so that "T-shirt", "t-shirt" and "tshirt" are equal."""
    ascii_words = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "", ascii_words.lower().replace("&", "and"))


class IconNames:
    """The emoji of icons, by the code points that the icon set declares or else by their names."""

    def __init__(self, text: EmojiText, known: Mapping[str, Emoji], icon_sets: Iterable[IconSet]) -> None:
        self._known = known
        self._hexcode_from_slug: dict[str, str] = {}
        for hexcode, emoji in known.items():
            self._learn(emoji.label, hexcode)
        for hexcode in known:
            if "-" not in hexcode:
                self._learn(unicodedata.name(chr(int(hexcode, 16)), ""), hexcode)
        for icon_set in icon_sets:
            for hexcode, name in icon_set.name_from_hexcode.items():
                self._learn(name, plain_hexcode(hexcode))
        for hexcode, names in text.shortcodes.items():
            for name in names:
                self._learn(name, plain_hexcode(hexcode))

    def _learn(self, words: str, hexcode: str) -> None:
        if words and hexcode in self._known:
            self._hexcode_from_slug.setdefault(slug(words), hexcode)

    def emoji_from_icon(self, icon_set: IconSet) -> dict[str, Emoji]:
        """The emoji of each icon by its name, without icons of unknown emoji."""
        declared = {name: plain_hexcode(hexcode) for hexcode, name in icon_set.name_from_hexcode.items()}
        found = {}
        for name in icon_set.icons:
            hexcode = declared.get(name) or self._hexcode_from_name(name, icon_set)
            if hexcode in self._known:
                found[name] = self._known[hexcode]
        return found

    def _hexcode_from_name(self, name: str, icon_set: IconSet) -> str:
        """Names are slugs of labels; sets add a number to second drawings, or `side` to whole animals."""
        if f"{name}side" in icon_set.icons:
            name = f"{name} face"
        candidates = (name, re.sub(r"-\d$", "", name), name.removesuffix("side"))
        known = (self._hexcode_from_slug.get(slug(candidate)) for candidate in candidates)
        return next((hexcode for hexcode in known if hexcode), "")
