"""Linear probes that recognize the content of a picture, trained on real pictures.

A probe is ridge regression from standardized EfficientNet-Lite2 features to one-hot answers. Its accuracy on
real pictures that it was not trained on is the ceiling of the score of a generated picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RIDGE = 1000.0  # of standardized features; chosen on real pictures


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier; `weights` float64 (features + 1, answers), the last row is the bias."""

    answers: tuple[str, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    weights: NDArray[np.float64]

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, features) -> (N, answers); the greatest is the answer."""
        x = (features - self.mean) / self.std
        scores: NDArray[np.float64] = x @ self.weights[:-1] + self.weights[-1]
        return scores

    def answer(self, features: NDArray[np.float32]) -> list[str]:
        """(N, features) -> N answers."""
        return [self.answers[int(index)] for index in self.scores(features).argmax(1)]


def probe_from_pictures(features: NDArray[np.float32], answers: Sequence[str]) -> Probe:
    """A probe fitted in closed form; every answer has the same weight, however many pictures show it."""
    names = tuple(sorted(set(answers)))
    index = np.array([names.index(answer) for answer in answers])
    share = 1.0 / np.bincount(index)[index]
    share *= len(answers) / share.sum()
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64) + 1e-3
    x = (features - mean) / std
    target = np.eye(len(names))[index]
    center_x, center_y = np.average(x, axis=0, weights=share), np.average(target, axis=0, weights=share)
    x, y = (x - center_x) * np.sqrt(share)[:, None], (target - center_y) * np.sqrt(share)[:, None]
    # In the dual form, since there are fewer pictures than features.
    dual = np.linalg.solve(x @ x.T + RIDGE * np.eye(len(x)), y)
    weights = x.T @ dual
    return Probe(
        answers=names, mean=mean, std=std, weights=np.vstack([weights, center_y - center_x @ weights])
    )


def answers_unseen(features: NDArray[np.float32], answers: Sequence[str], folds: Sequence[int]) -> list[str]:
    """Answers for pictures (N, features) of probes that were fitted without the fold of the picture."""
    told, fold = np.array(answers), np.array(folds)
    found = np.empty(len(told), dtype=told.dtype)
    for held in (fold == number for number in np.unique(fold)):
        probe = probe_from_pictures(features[~held], told[~held].tolist())
        found[held] = probe.answer(features[held])
    return [str(answer) for answer in found]
