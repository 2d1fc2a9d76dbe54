"""
Libraries that extras install.
"""

from __future__ import annotations

import pytest

from broadway_sync import ConfigurationError
from broadway_sync.extras import load
from tests.helpers import run_python


def test_a_library_that_is_missing_is_named_with_its_extra() -> None:
    """
    And with the reason, which may be something else than that it is not installed.
    """
    with pytest.raises(ConfigurationError) as caught:
        load("no_such_library", "extra", "Somebody")
    assert str(caught.value) == (
        "Somebody needs no_such_library, which cannot be imported (No module named 'no_such_library'): "
        "pip install 'broadway_sync[extra]'"
    )


IMPORTS = """
import sys, statsd, tenacity
from broadway_sync.dead_letter import KafkaLetters
from broadway_sync.telemetry.statsd import StatsdReporter
sys.modules.pop("encodings.idna", None)
{}
print("encodings.idna" in sys.modules)
"""


@pytest.mark.parametrize("made", ["StatsdReporter()", "KafkaLetters('dead')"])
def test_what_looks_hosts_up_has_what_python_imports_for_that(made: str) -> None:
    """
    On a thread, at the first report or letter: a child forked at that moment would wait for that import for ever.
    """
    pytest.importorskip("kafka")
    done = run_python(IMPORTS.format(made))
    assert done.stdout.strip() == "True", done.stderr
