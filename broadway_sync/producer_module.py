"""
What a pipeline asks of the class in ``producer.module`` before it makes instances of it.
"""

from __future__ import annotations

import inspect
from typing import Any, List, Mapping, Tuple, Type

import attrs

from .errors import ConfigurationError
from .log import safe_repr
from .options import PipelineOptions, inherit
from .producer import Producer
from .rules import check_names


def validate(options: PipelineOptions) -> PipelineOptions:
    """
    Let the producer's class check its options.
    """
    module = options.producer.module
    if not isinstance(module, tuple):
        return options
    cls, given = module
    if not issubclass(cls, Producer):
        raise ConfigurationError(f"producer.module: expected a subclass of broadway_sync.Producer, got: {cls!r}")
    if cls.max_concurrency is not None and options.producer.concurrency > cls.max_concurrency:
        rule = f"expected at most {cls.max_concurrency} for {cls.__name__}"
        raise ConfigurationError(f"producer.concurrency: {rule}, got: {options.producer.concurrency}")
    checked = cls.validate_options(given)
    if not isinstance(checked, Mapping):
        rule = f"{cls.__name__}.validate_options must return the options, a mapping"
        raise ConfigurationError(f"producer.module: {rule}, got: {safe_repr(checked)}")
    _check_arguments(cls, checked)
    return attrs.evolve(options, producer=attrs.evolve(options.producer, module=(cls, checked)))


def prepare_for_start(handler: Any, options: PipelineOptions) -> Tuple[List[Any], PipelineOptions]:
    """
    Call the producer's ``prepare_for_start``, if it has one, and check what it returns.
    """
    module = options.producer.module
    prepare = getattr(module[0] if isinstance(module, tuple) else module, "prepare_for_start", None)
    if prepare is None:
        return [], options
    returned = prepare(handler, options)
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], PipelineOptions):
        if returned[1].name == options.name:
            return list(returned[0]), inherit(returned[1])
        raise ConfigurationError(f"name: prepare_for_start must not change it, got: {returned[1].name!r}")
    raise ConfigurationError(
        f"producer.module: prepare_for_start must return (children, PipelineOptions), got: {safe_repr(returned)}"
    )


def _check_arguments(cls: Type[Producer], given: Mapping[Any, Any]) -> None:
    """
    Raise ConfigurationError if *cls* cannot be made with these options, as far as its signature tells.
    """
    if cls.prepare_for_start.__func__ is not Producer.prepare_for_start.__func__:  # type: ignore[attr-defined]
        return  # the options to use come from there
    try:
        parameters = inspect.signature(cls, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # nothing that can be looked at
        return
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        check_names(given, [each.name for each in named], "producer.module")
    for each in named:
        if each.default is each.empty and each.name not in given:
            raise ConfigurationError(f"producer.module.{each.name}: required by {cls.__name__}")
