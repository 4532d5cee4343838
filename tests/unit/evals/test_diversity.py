"""Diversity: counted by hand."""

import pytest

from fewstep.evals.diversity import Diversity, diversity


def test_only_right_subjects_count_and_each_once():
    seen = [[1, 1, 2, 9], [5, 5, 5, 5], [7, 8, 7, 8]]
    right = [frozenset({1, 2, 3}), frozenset({5, 6}), frozenset({1})]
    assert diversity(seen, right) == Diversity(distinct=(2 + 1 + 0) / 3, precision=(3 + 4 + 0) / 12)


def test_noise_that_looks_like_everything_is_not_diverse():
    assert diversity([list(range(100, 116))], [frozenset({1, 2, 3})]) == Diversity(0.0, 0.0)


def test_one_answer_over_and_over_is_precise_and_not_diverse():
    assert diversity([[4] * 16], [frozenset({4, 5, 6})]) == Diversity(1.0, 1.0)


def test_no_pictures_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        diversity([], [])
