"""
Copies of one message: told by the newest handle, gone once.
"""

from __future__ import annotations

import pytest

from broadway_sync.core.copies import Copies


def test_single_copy_is_told_by_its_handle() -> None:
    """
    Whatever became of it, and nothing is remembered.
    """
    for is_gone in (True, False):
        copies = Copies()
        assert copies.add("m", "h1") is None
        assert len(copies) == 1
        assert copies.finish("m", is_gone) == "h1"
        assert len(copies) == 0


def test_newer_copy_replaces_the_handle() -> None:
    """
    The older handle is named, so that nobody keeps its lease; the same handle again replaces nothing.
    """
    copies = Copies()
    copies.add("m", "h1")
    assert copies.add("m", "h2") == "h1"
    assert copies.add("m", "h2") is None
    assert copies.add("m", "h3") == "h2"
    assert copies.add("other", "h4") is None


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ([True, True], ["h2", None]),
        ([True, False], ["h2", None]),
        ([False, True], [None, "h2"]),
        ([False, False], [None, "h2"]),
    ],
)
def test_acknowledgement_is_told_once_and_a_failure_by_the_last_copy(
    outcomes: list[bool], told: list[str | None]
) -> None:
    """
    Which of the copies is finished does not matter.
    """
    copies = Copies()
    copies.add("m", "h1")
    copies.add("m", "h2")
    assert [copies.finish("m", is_gone) for is_gone in outcomes] == told
    assert len(copies) == 0


def test_copy_that_comes_after_one_was_acknowledged() -> None:
    """
    The acknowledgement may have been in vain: it is told again, by the new handle.
    """
    copies = Copies()
    copies.add("m", "h1")
    copies.add("m", "h2")
    assert copies.finish("m", True) == "h2"
    assert copies.is_gone("m")
    assert copies.add("m", "h3") == "h2"
    assert not copies.is_gone("m")
    assert copies.finish("m", False) is None
    assert copies.finish("m", True) == "h3"
    assert len(copies) == 0


def test_copy_that_was_done_with_before() -> None:
    """
    There is nothing to tell.
    """
    copies = Copies()
    copies.add("m", "h1")
    assert [copies.finish("m", True), copies.finish("m", True)] == ["h1", None]
    assert len(copies) == 0


def test_message_that_comes_again_later_is_new() -> None:
    """
    What became of the earlier delivery is forgotten with its last copy.
    """
    copies = Copies()
    for handle in ("h1", "h2"):
        copies.add("m", handle)
    assert [copies.finish("m", True), copies.finish("m", True)] == ["h2", None]
    assert copies.add("m", "h3") is None
    assert copies.finish("m", True) == "h3"
