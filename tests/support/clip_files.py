"""A list of merges for CLIP's tokenizer, and a small text tower with random weights."""

from random_weights import random_state

from textual_vision.export.families.clip.blocks import Transformer
from textual_vision.export.families.clip.text import ClipText

PRINTABLE = [chr(number) for number in range(33, 127)]
BYTES_AND_MARKS = 514


def write_merges(path, rows):
    """Write merges of neighboring characters, as many as an embedding of `rows` needs; returns the path."""
    pairs = [f"{PRINTABLE[index]} {PRINTABLE[index + 1]}" for index in range(rows - BYTES_AND_MARKS)]
    path.write_text("\n".join(("#version", *pairs, "")), "utf-8")
    return path


def random_tower(*, rows, context, projection, width=64, blocks=2, prefix=""):
    """A text tower of one head for each 64 channels."""
    transformer = Transformer(width, blocks, width // 64)
    tower = ClipText(vocabulary=rows, context=context, projection=projection, transformer=transformer)
    tower.load_state_dict(random_state(tower, prefix))
    return tower.eval()
