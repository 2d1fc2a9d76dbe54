"""
The setting ``BROADWAY_PIPELINES``.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.integrations.django import pipelines, support  # noqa: F401 - sets Django up

from django.test.utils import override_settings  # isort: skip

from broadway_sync import ConfigurationError, Pipeline
from broadway_sync.integrations.django import load_pipeline, pipeline_targets


def test_paths_with_a_dot_or_a_colon() -> None:
    """
    Both forms mean the same.
    """
    paths = {"a": "shop.pipelines.invoices", "b": "shop.pipelines:invoices", "c": "shop.pipelines:Some.make"}
    with override_settings(BROADWAY_PIPELINES=paths):
        assert pipeline_targets() == {
            "a": "shop.pipelines:invoices",
            "b": "shop.pipelines:invoices",
            "c": "shop.pipelines:Some.make",
        }
        assert load_pipeline("a").name == load_pipeline("b").name == "invoices"


def test_functions_and_pipelines_themselves() -> None:
    """
    The setting may hold what a path would lead to.
    """
    pipeline = pipelines.slow()
    with override_settings(BROADWAY_PIPELINES={"made": pipelines.slow, "there": pipeline}):
        assert load_pipeline("there") is pipeline
        made = load_pipeline("made")
        assert isinstance(made, Pipeline) and made is not load_pipeline("made")


def test_no_setting_means_no_pipelines() -> None:
    """
    The app may be installed for its care of connections alone.
    """
    with override_settings():
        from django.conf import settings

        del settings.BROADWAY_PIPELINES
        assert pipeline_targets() == {}
        with pytest.raises(ConfigurationError, match="has no pipeline 'a', there are: none"):
            load_pipeline("a")


@pytest.mark.parametrize(
    "given, text",
    [
        (["shop.pipelines.invoices"], "BROADWAY_PIPELINES: expected a mapping of names to dotted paths, got: ['shop"),
        ({1: "a.b"}, "BROADWAY_PIPELINES: expected names that a command line can give, got: 1"),
        ({"": "a.b"}, "BROADWAY_PIPELINES: expected names that a command line can give, got: ''"),
        ({"--all": "a.b"}, "BROADWAY_PIPELINES: expected names that a command line can give, got: '--all'"),
        ({"a": "invoices"}, "BROADWAY_PIPELINES['a']: expected the path of a Pipeline, or of a function that returns "),
        ({"a": None}, "'shop.pipelines.orders', got: None"),
        ({"a": Pipeline}, "got: <class 'broadway_sync.pipeline.Pipeline'>"),
    ],
)
def test_wrong_setting(given: Any, text: str) -> None:
    """
    The error says what was expected, and what there is.
    """
    with override_settings(BROADWAY_PIPELINES=given), pytest.raises(ConfigurationError) as caught:
        pipeline_targets()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "path, text",
    [
        ("shop.nowhere.invoices", "there is no module 'shop.nowhere'"),
        ("shop.pipelines.invoces", "has no 'invoces', did you mean 'invoices'?"),
        ("shop.pipelines.activity_buffer", "expected a Pipeline or a function without arguments, got: <"),
        ("shop.pipelines.OutboxProducer", "expected it to return a Pipeline, got: <"),
    ],
)
def test_path_that_leads_to_no_pipeline(path: str, text: str) -> None:
    """
    The error says how far it got.
    """
    with override_settings(BROADWAY_PIPELINES={"a": path}), pytest.raises(ConfigurationError) as caught:
        load_pipeline("a")
    assert text in str(caught.value)


def test_unknown_name() -> None:
    """
    The error lists the names, and guesses.
    """
    with pytest.raises(ConfigurationError) as caught:
        load_pipeline("invoces")
    assert str(caught.value) == (
        "BROADWAY_PIPELINES has no pipeline 'invoces', there are: invoices, slow, stuck, crashing; did you "
        "mean 'invoices'?"
    )


@pytest.mark.parametrize("name", [None, 5, ["invoices"], ""])
def test_what_is_no_name(name: Any) -> None:
    """
    Is an unknown one.
    """
    with pytest.raises(ConfigurationError, match="BROADWAY_PIPELINES has no pipeline .*, there are: invoices"):
        load_pipeline(name)
