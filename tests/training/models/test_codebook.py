"""The image codebook moves towards what chose its rows, revives the dead, and says how it is used."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from textual_vision.training.config import CodebookConfig
from textual_vision.training.models.codebook import Codebook, codebook_usage


def book(codes: int = 4, width: int = 3, **changes: float) -> Codebook:
    torch.manual_seed(0)
    return Codebook(CodebookConfig(codebook_size=codes, codebook_dim=width, **changes))  # type: ignore[arg-type]


def test_the_nearest_row_is_the_one_with_the_greatest_cosine() -> None:
    rows = book(8, 5)
    latents = torch.randn(2, 3, 3, 5)
    expected = F.cosine_similarity(latents[..., None, :], rows.rows, dim=-1).argmax(-1)
    assert torch.equal(rows.nearest(latents), expected)


def test_lookup_puts_rows_where_their_codes_were() -> None:
    rows = book()
    codes = torch.tensor([[[0, 1], [2, 3]]])
    found = rows.lookup(codes)
    assert found.shape == (1, 3, 2, 2)
    assert torch.equal(found[0, :, 1, 0], rows.rows[2])


def test_an_update_is_an_exponential_moving_average_of_sums_and_counts() -> None:
    rows = book(decay=0.9)
    counts, sums = rows.counts.clone(), rows.sums.clone()
    latents = F.normalize(torch.randn(5, 3), dim=1)
    codes = torch.tensor([0, 0, 0, 2, 2])
    rows.update(latents, codes)
    torch.testing.assert_close(rows.counts[0], 0.9 * counts[0] + 0.1 * 3)
    torch.testing.assert_close(rows.sums[2], 0.9 * sums[2] + 0.1 * latents[3:].sum(0))
    torch.testing.assert_close(rows.rows, F.normalize(rows.sums, dim=1))


def test_rows_follow_the_latents_that_choose_them() -> None:
    rows = book(decay=0.5)
    target = F.normalize(torch.tensor([[1.0, 2.0, 3.0]]), dim=1)
    chosen = rows.nearest(target)
    for _ in range(20):
        rows.update(target, chosen)
    torch.testing.assert_close(rows.rows[chosen], target, atol=1e-3, rtol=0)


def test_only_dead_rows_are_revived_and_at_latents_that_were_given() -> None:
    rows = book(threshold_ema_dead_code=0.1)
    rows.counts.copy_(torch.tensor([10.0, 10.0, 0.01, 10.0]))
    before = rows.rows.clone()
    latents = F.normalize(torch.randn(20, 3), dim=1)
    assert rows.replace_dead_rows(latents, torch.Generator().manual_seed(0)) == 1
    assert torch.equal(rows.rows[[0, 1, 3]], before[[0, 1, 3]])
    assert (latents == rows.rows[2]).all(1).any()
    assert rows.counts[2] > 1


def test_a_book_without_dead_rows_is_left_alone() -> None:
    rows = book()
    assert rows.replace_dead_rows(torch.randn(9, 3), torch.Generator()) == 0


def test_usage_counts_rows_perplexity_and_what_a_white_picture_costs() -> None:
    rows = book()
    codes = torch.tensor([[[0, 1], [0, 1]], [[0, 1], [0, 1]]])
    usage = codebook_usage(rows, codes, torch.tensor([[0, 0], [0, 3]]))
    assert usage.used == 2
    assert usage.perplexity == pytest.approx(2.0)
    assert usage.entropy == pytest.approx(1.0)
    assert usage.entropy_by_position == pytest.approx(0.0)  # every cell always has the same code
    assert usage.white_codes == 2
    cosine = rows.rows @ rows.rows.T - 2 * torch.eye(4)
    assert usage.neighbor_cosine == pytest.approx(float(cosine.amax(1).mean()), abs=1e-6)
