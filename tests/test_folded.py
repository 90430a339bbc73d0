"""A test that goes through its cases names the one that failed, and leaves nothing changed."""

from __future__ import annotations

import inspect

import gradstep as gs
import pytest
from folded import LEVELS, each_level, folded, in_all_pairs, in_turn


def test_the_case_that_failed_is_named_and_none_comes_after() -> None:
    tried = []

    @folded("a", [1, 2])
    @folded(("b", "c"), [("x", 0), ("y", 1)])
    def test(a: int, b: str, c: int, fixture: str) -> None:
        tried.append((a, b, c, fixture))
        assert (a, b) != (2, "x")

    assert list(inspect.signature(test).parameters) == ["fixture"]
    with pytest.raises(AssertionError) as caught:
        test(fixture="f")
    assert caught.value.__notes__ == ["case: b=x, c=0", "case: a=2"]
    assert tried == [(1, "x", 0, "f"), (1, "y", 1, "f"), (2, "x", 0, "f")]


def test_a_name_that_the_test_does_not_have_is_refused() -> None:
    with pytest.raises(AssertionError):
        folded("b", [1])(lambda a: None)
    with pytest.raises(AssertionError):
        folded("a", [])(lambda a: None)


def test_a_test_is_skipped_where_all_its_cases_are() -> None:
    @folded("a", [1, 2])
    def test(a: int, skipped: int) -> None:
        if a <= skipped:
            pytest.skip(f"case {a}")

    test(skipped=1)
    with pytest.raises(pytest.skip.Exception, match="case 1"):
        test(skipped=2)


def test_levels_are_in_use_and_put_back() -> None:
    before, found = gs.simd_level(), []

    @each_level
    def test(level: str) -> None:
        found.append(gs.simd_level())
        gs.set_num_threads(1)

    threads = gs.get_num_threads()
    test()
    assert found == list(LEVELS)
    assert (gs.simd_level(), gs.get_num_threads()) == (before, threads)


def test_every_level_and_every_number_of_threads_has_its_turn() -> None:
    for numbers in ((1,), (3, 1), (1, 2, 3), (1, 2, 3, 7)):
        used = [(gs.simd_level(), gs.get_num_threads()) for _ in in_turn(numbers)]
        assert {level for level, _ in used} == set(LEVELS)
        assert {threads for _, threads in used} == set(numbers)
    pairs = [(gs.simd_level(), gs.get_num_threads()) for _ in in_all_pairs((1, 2, 3))]
    assert pairs == [(level, n) for level in LEVELS for n in (1, 2, 3)]
