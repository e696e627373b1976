"""The best of many items: exactly those, however they are found."""

import pytest
import torch

from model_repo.ranker import top_k as module
from model_repo.ranker.top_k import best_items, top_k

NOTHING = (torch.full((3, 1), -1), torch.zeros(3, 1))


@pytest.mark.parametrize("k", [1, 7, 100, 1000])
@pytest.mark.parametrize("items", [1000, 1001, 4096, 10_007])
def test_it_is_the_plain_top_k(items: int, k: int):
    """Groups that do not come out even, and as many wanted as there are."""
    torch.manual_seed(items + k)
    scores = torch.randn(3, items)

    best, places = top_k(scores, k)

    torch.testing.assert_close(best, scores.topk(k).values)
    torch.testing.assert_close(scores.gather(1, places), best)


def test_equal_scores_are_no_trouble():
    """An untrained table is all alike."""
    best, places = top_k(torch.ones(2, 500), 10)

    assert (best == 1).all()
    assert all(len(set(row)) == 10 for row in places.tolist())


@pytest.mark.parametrize("at_once", [1 << 22, 300, 64])
def test_a_catalogue_in_parts_has_the_same_best(at_once: int, monkeypatch):
    """A million items times a full batch would be a gigabyte of scores."""
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    users, items = torch.randn(3, 8), torch.randn(1003, 8)

    best, places = best_items(users, items, 20, NOTHING)

    expected = (users @ items.T).topk(20)
    torch.testing.assert_close(best, expected.values)
    torch.testing.assert_close(places, expected.indices)


@pytest.mark.parametrize("at_once", [1 << 22, 64])
def test_what_is_added_counts_wherever_the_item_lies(at_once: int, monkeypatch):
    """The history's own items have scores of their own; padding adds nothing."""
    monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
    users, items = torch.randn(3, 8), torch.randn(500, 8)
    rows = torch.tensor([[499, 3, -1], [250, 250, -1], [-1, -1, -1]])
    values = torch.tensor([[50.0, -90.0, 7.0], [20.0, 20.0, 7.0], [7.0, 7.0, 7.0]])
    expected = users @ items.T
    expected[0, 499] += 50
    expected[0, 3] -= 90
    expected[1, 250] += 40

    best, places = best_items(users, items, 20, (rows, values))

    torch.testing.assert_close(best, expected.topk(20).values)
    assert places[0, 0] == 499
    assert places[1, 0] == 250
