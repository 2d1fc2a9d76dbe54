"""
Errors show no credentials, whatever their type and wherever somebody put them.
"""

from __future__ import annotations

from typing import Any, Optional

import attrs
import pytest

from broadway_sync import ConfigurationError
from broadway_sync.masking import mask
from broadway_sync.rules import build, mapping, non_empty_str, option, optional


@attrs.frozen(kw_only=True)
class Inner:
    """
    A group of options.
    """

    host: str = option("localhost", non_empty_str, "where")
    password: Optional[str] = option(None, optional(non_empty_str), "of the user")
    extra: Any = option(attrs.Factory(dict), mapping, "further options")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"password": b"hunter2"}, "password: expected a non-empty str"),
        ({"host": ["amqp://user:hunter2@example.org"]}, "host: expected a non-empty str"),
        ({"extra": [("password", "hunter2")]}, "extra: expected a mapping"),
        ([("password", "hunter2")], "options: expected a mapping or Inner"),
    ],
)
def test_a_wrong_value_is_shown_without_its_credentials(given: Any, shown: str) -> None:
    """
    The option and the rule are.
    """
    with pytest.raises(ConfigurationError, match=shown) as caught:
        build(Inner, given, "options")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("amqp://user:hunter2@host/v", "amqp://user:******@host/v"),
        ("amqp://user:/hunter2@host/v", "amqp://user:******@host/v"),
        ("amqp://user:hunt@er2@host", "amqp://user:******@host"),
        ("amqp:/user:hunter2@host", "amqp:/user:******@host"),
        ("user:hunter2@host", "user:******@host"),
        ("https://host:80/path and bob@example.org at 12:30", "https://host:80/path and bob@example.org at 12:30"),
    ],
)
def test_passwords_in_addresses(text: str, masked: str) -> None:
    """
    Also in those with a slip of the pen.
    """
    assert mask(text) == masked


@pytest.mark.parametrize("space", [" ", "\t", "\n"])
def test_white_space_in_the_password_of_an_address(space: str) -> None:
    """
    Clients of brokers take it, so it may be among the options.
    """
    address = f"amqp://user:hunt{space}er2@host/v"
    expected = "amqp://user:******@host/v"
    assert mask({"connection": address, "others": [address, "b"]}) == {
        "connection": expected,
        "others": [expected, "b"],
    }


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("answered {'api_key': b'hunter2', 'a': 1}", "answered {'api_key': ******, 'a': 1}"),
        ('{"password": "hunt\\"er2", "a": 1}', '{"password": ******, "a": 1}'),
        ('password="hunter2\\"', "password=******"),
        ("PWD='C:\\hunter2\\';Driver=x", "PWD=******;Driver=x"),
        ("password='hunter2\\' host=x", "password=****** host=x"),
        ('password="hunt\\\ner2"', "password=******"),
        ("amqps://host/?ssl_options={'password':'hunter2'}", "amqps://host/?ssl_options={'password':******}"),
        ("amqps://host/?ssl_options=%27password%27%3A+%27a%27", "amqps://host/?ssl_options=%27password%27%3A******"),
    ],
)
def test_passwords_in_dicts(text: str, masked: str) -> None:
    """
    As text, in a text: JSON, a repr, options in a URL.
    """
    assert mask(text) == masked
