"""The split of a picture, decided by a hash of its concept.

`concept` is a key shared by all names and all pictures of one thing, so a thing is held out under every name
and in every style. A concept whose hash is below `TEST_SHARE` is `test`, below the sum of both shares
`validation`, else `train`. A few (concept, style) pairs of `train` are held out too: one half is
`heldout_pair`, the other belongs to `validation`. Every dog with sunglasses is `heldout_composition`: both
parts are trained on, their combination is not. A run selects weights by `validation`; the other held-out
splits are for evaluation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

TRAIN, VALIDATION, TEST = "train", "validation", "test"
HELDOUT_PAIR, HELDOUT_COMPOSITION = "heldout_pair", "heldout_composition"
EVALUATION_SPLITS = (TEST, HELDOUT_PAIR, HELDOUT_COMPOSITION)
SPLITS = (TRAIN, VALIDATION, TEST, HELDOUT_PAIR, HELDOUT_COMPOSITION)

TEST_SHARE = 0.03
VALIDATION_SHARE = 0.03
PAIR_SHARE = 0.04
VALIDATION_PAIR_SHARE = 0.5  # of the pairs


# Always trained on: the parts of compositions, and the subjects of the prompts in the documentation.
PINNED_CONCEPTS = frozenset({
    "1F436", "1F415", "1F429",  # dog face, dog, poodle
    "1F431", "1F408", "1F42D", "1F439", "1F430", "1F98A", "1F43B", "1F43C", "1F43B-200D-2744",
    "1F428", "1F42F", "1F981", "1F42E", "1F437", "1F438", "1F435", "1F43A", "1F99D", "1F417",
    "1F434", "1F984", "1F427", "1F414", "1F989", "1F432",  # animals that wear something
    "1F60E", "1F576", "1F453", "1F913", "1F451", "1F3A9", "1F393", "1F9E2", "1F452",  # glasses, hats
    "1F332", "1F333", "1F334", "1F335", "1F384",  # trees and cacti
    "1F3DE", "1F3D4", "26F0", "1F5FB", "1F3DC", "1F3D6", "1F305", "1F304", "2600", "1F31E", "1F319", "2601",
})  # fmt: skip
# The scene of a prompt in the documentation is always trained on.
PINNED_PREFIXES = ("scene:forest|river|",)

DOG_WORDS = frozenset({"dog", "dogs", "doggy", "puppy", "puppies", "poodle", "pup", "hound"})
SUNGLASSES_WORDS = frozenset({"sunglasses", "shades"})


def is_pinned(concept: str) -> bool:
    """Whether a concept is always trained on, whatever its hash."""
    return concept in PINNED_CONCEPTS or concept.startswith(PINNED_PREFIXES)


def is_trained(concept: str, style: str) -> bool:
    """Whether pictures of this concept in this style may be trained on, whole or as a part."""
    return concept_split(concept) == TRAIN and not is_heldout_pair(concept, style)


def is_heldout_composition(captions: Iterable[str]) -> bool:
    """Whether any caption names a dog and sunglasses.

    The test is on words, so that it covers every source of such a picture.
    """
    for caption in captions:
        words = set(re.findall(r"[a-z]+", caption.lower()))
        if words & DOG_WORDS and words & SUNGLASSES_WORDS:
            return True
    return False


def hashed_share(key: str) -> float:
    """A fixed number in [0, 1) for a key: the first 8 bytes of its SHA-256, big-endian, over 2^64."""
    return float(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64)


def concept_split(concept: str) -> str:
    """`train`, `validation` or `test`, the same on every machine."""
    if is_pinned(concept):
        return TRAIN
    share = hashed_share(concept)
    if share < TEST_SHARE:
        return TEST
    return VALIDATION if share < TEST_SHARE + VALIDATION_SHARE else TRAIN


def is_heldout_pair(concept: str, style: str) -> bool:
    """Whether a concept of `train` is held out in this style."""
    return not is_pinned(concept) and hashed_share(f"{concept}|{style}") < PAIR_SHARE


def pair_split(concept: str, style: str) -> str:
    """The split of a held-out pair."""
    chosen = hashed_share(f"{concept}|{style}|choose") < VALIDATION_PAIR_SHARE
    return VALIDATION if chosen else HELDOUT_PAIR
