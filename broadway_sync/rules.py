"""
How an option says what it takes, and how a mapping becomes a class of options.

A rule is an attrs validator that names the option alone; :func:`construct`, which knows under which key the options
stand, adds the path.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, Callable, Collection, Iterable, List, Mapping, Optional, Tuple, Type, TypeVar

import attrs

from .errors import ConfigurationError
from .log import safe_repr
from .masking import MASK, mask

T = TypeVar("T")
Rule = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def mistake(name: str, text: str) -> ConfigurationError:
    """
    Return the error for the option *name*.
    """
    return ConfigurationError(f"{name}: {text}")


def rule(test: Callable[[Any], bool], expected: str) -> Rule:
    """
    Return a rule: the value must pass *test*; *expected* says so in words.
    """

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not test(value):
            raise mistake(attribute.name, f"expected {expected}, got: {_shown(attribute.name, value)}")

    return validate


def _shown(name: str, value: Any) -> str:
    """
    Return *value* as an error may show it: without the credentials that somebody put into the wrong place or type.
    """
    masked = mask({name: value})[name]
    return safe_repr(masked if masked == MASK or isinstance(value, (str, bytes, Mapping, list, tuple)) else value)


def is_int(value: Any, minimum: int) -> bool:
    """
    Whether *value* is an int of at least *minimum*; a bool is none.
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def is_seconds(value: Any) -> bool:
    """
    Whether *value* is a finite number that a clock can be added to.
    """
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int beyond what a float can hold
        return False


def takes(count: int) -> Callable[[Any], bool]:
    """
    Return a test: whether a value can be called with *count* positional arguments, as far as one can tell.
    """

    def test(value: Any) -> bool:
        if not callable(value) or inspect.iscoroutinefunction(value):
            return False
        try:
            inspect.signature(value).bind(*range(count))
        except ValueError:  # a builtin without a signature
            return True
        except TypeError:
            return False
        return True

    return test


positive_int = rule(lambda value: is_int(value, 1), "an int > 0")
int_from_zero = rule(lambda value: is_int(value, 0), "an int >= 0")
positive_seconds = rule(lambda value: is_seconds(value) and value > 0, "a finite number of seconds > 0")
seconds_from_zero = rule(lambda value: is_seconds(value) and value >= 0, "a finite number of seconds >= 0")
non_empty_str = rule(lambda value: isinstance(value, str) and bool(value), "a non-empty str")
boolean = rule(lambda value: isinstance(value, bool), "True or False")
mapping = rule(lambda value: isinstance(value, Mapping), "a mapping")


def one_of(*values: Any) -> Rule:
    """
    Return a rule: one of *values*, which are str.
    """
    return rule(lambda value: isinstance(value, str) and value in values, f"one of {', '.join(map(repr, values))}")


def optional(inner: Rule) -> Rule:
    """
    Return a rule: None, or what *inner* takes.
    """

    def validate(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None:
            inner(instance, attribute, value)

    return validate


def option(default: Any, rule: Optional[Rule], doc: str, converter: Optional[Callable[[Any], Any]] = None) -> Any:
    """
    Return the attrs field of one option; ``attrs.NOTHING`` as default makes it required.
    """
    return attrs.field(default=default, validator=rule, converter=converter, metadata={"doc": doc})


def build(cls: Type[T], given: Any, path: str) -> T:
    """
    Return *given*, a mapping or already an instance of *cls*, as an instance of *cls*.

    Raises:
        ConfigurationError: It is neither, or see :func:`construct`.
    """
    if isinstance(given, cls):
        return given
    if not isinstance(given, Mapping):
        raise mistake(path, f"expected a mapping or {cls.__name__}, got: {_shown(path, given)}")
    return construct(cls, given, path)


def check_names(given: Iterable[Any], known: Collection[str], path: str) -> None:
    """
    Raise ConfigurationError for the first of the option names *given* that is not in *known*.
    """
    for name in given:
        if name not in known:
            prefix, valid = f"{path}." if path else "", ", ".join(known) or "none"
            raise ConfigurationError(f"{prefix}{name}: unknown option, valid options are: {valid}")


def construct(cls: Type[T], values: Mapping[Any, Any], path: str) -> T:
    """
    Return an instance of *cls*, an attrs class whose fields are made by :func:`option`.

    Raises:
        ConfigurationError: An option is unknown, missing or breaks its rule; the text begins with its whole path.
    """
    prefix = f"{path}." if path else ""
    known = attrs.fields_dict(cls)  # type: ignore[arg-type]
    check_names(values, known, path)
    for name, field in known.items():
        if field.default is attrs.NOTHING and name not in values:
            raise ConfigurationError(f"{prefix}{name}: required, {field.metadata['doc']}")
    try:
        return cls(**values)
    except ConfigurationError as error:
        raise ConfigurationError(f"{prefix}{error}") from None


def describe(cls: type) -> List[Tuple[str, str, str]]:
    """
    Return (name, default, meaning) of each option of *cls*, for the manual.
    """
    rows = []
    for field in attrs.fields(cls):
        if field.default is attrs.NOTHING:
            default = "required"
        elif isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
            default = "computed"
        else:
            default = repr(field.default)
        rows.append((field.name, default, field.metadata["doc"]))
    return rows
