"""
Targets: what leads to a pipeline, and what is said of what does not.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from broadway_sync import Pipeline
from broadway_sync.runner.targets import TargetError, UserCodeError, add_current_directory, listed, load
from tests.helpers import make_handler
from tests.runner.support import Runner

PROLOGUE = """
from broadway_sync import DummyProducer, Pipeline

class Handler:
    def handle_message(self, processor, message, context):
        return message

def make(**options):
    defaults = {"producer": {"module": DummyProducer}, "processors": {"x": {}}}
    return Pipeline(Handler(), name="made", **{**defaults, **options})

class Holder:
    pipeline = make()
    def method(self):
        return make()

pipeline = make()
orders = Holder.pipeline
number = 3
"""


@pytest.fixture(autouse=True)
def fresh_modules() -> Any:
    """
    Put away the modules of other shops, and forget those of the test.
    """
    path = list(sys.path)
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "shop"}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
        del sys.modules[name]
    sys.modules.update(others)
    sys.path[:] = path


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """
    Return a function that writes a module of the package ``shop``, which is in the current directory.
    """
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    add_current_directory()

    def write(name: str, source: str) -> Path:
        path = tmp_path / "shop" / f"{name}.py"
        path.write_text(PROLOGUE + source, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", ["pipeline", "make", "Holder.pipeline", "made_by_class", "partial"])
def test_what_leads_to_a_pipeline(shop: Any, name: str) -> None:
    """
    A pipeline, or whatever returns one when it is called without arguments.
    """
    shop("orders", "import functools\nmade_by_class = Holder().method\npartial = functools.partial(make, shutdown=3)")
    found = load(f"shop.orders:{name}")
    assert isinstance(found, Pipeline)
    assert found.name == "made"


def test_pipelines_and_functions(make_pipeline: Any) -> None:
    """
    Need no import.
    """
    pipeline = make_pipeline()
    assert load(pipeline) is pipeline
    assert load(lambda: pipeline) is pipeline


def test_one_or_several(make_pipeline: Any) -> None:
    """
    Are both fine.
    """
    pipeline = make_pipeline()
    assert listed("a:b") == ["a:b"]
    assert listed(pipeline) == [pipeline]
    assert listed(load) == [load]
    assert listed(("a:b", pipeline)) == ["a:b", pipeline]


MISTAKES = {
    "orders": "orders: expected package.module:name, such as shop.orders:pipeline",
    "shop.orders:": "shop.orders:: expected package.module:name, such as shop.orders:pipeline",
    "shop/orders.py:x": "shop/orders.py:x: expected package.module:name, did you mean shop.orders:x?",
    "./orders.py:x": "./orders.py:x: expected package.module:name, did you mean orders:x?",
    "shop.orders:make()": "shop.orders:make(): expected package.module:name, did you mean shop.orders:make?",
    "/srv/orders.py:x": "/srv/orders.py:x: expected package.module:name, such as shop.orders:pipeline",
    "shop.orders:x(1)": "shop.orders:x(1): expected package.module:name, such as shop.orders:pipeline",
    "shopp.orders:x": "shopp.orders:x: there is no module 'shopp' (in {here} and sys.path were searched)",
    "shop.order:x": "shop.order:x: there is no module 'shop.order' (in {here} and sys.path were searched)",
    "shop.orders.py:x": "shop.orders.py:x: there is no module 'shop.orders.py' "
    "(in {here} and sys.path were searched), did you mean shop.orders:x?",
    "shop.orders:pipelin": "shop.orders:pipelin: module 'shop.orders' has no 'pipelin', did you mean 'pipeline'?",
    "shop.orders:zzz": "shop.orders:zzz: module 'shop.orders' has no 'zzz', its pipelines are: orders, pipeline",
    "shop.orders:number": "shop.orders:number: expected a Pipeline or a function without arguments, got: 3",
    "shop.orders:needy": "shop.orders:needy: expected a Pipeline or a function without arguments, got: <function needy",
    "shop.orders:later": "shop.orders:later: expected a Pipeline or a function without arguments, got: <function later",
    "shop.orders:forgetful": "shop.orders:forgetful: expected it to return a Pipeline, got: None "
    "(was `return pipeline` forgotten?)",
    "shop.orders:listing": "shop.orders:listing: expected it to return a Pipeline, got: [1]",
    "shop.orders:wrong": "shop.orders:wrong: processors.x.concurency: unknown option, valid options are: concurrency, "
    "max_demand, min_demand, partition_by ({here}/shop/orders.py, line 10)",
}


@pytest.mark.parametrize("target", MISTAKES)
def test_mistakes(shop: Any, tmp_path: Path, target: str) -> None:
    """
    Are said in a line that names the target and the cure.
    """
    shop(
        "orders",
        """
def needy(argument): ...
async def later(): ...
def forgetful(): make()
def listing(): return [1]
def wrong(): return make(processors={"x": {"concurency": 1}})
""",
    )
    with pytest.raises(TargetError) as caught:
        load(target)
    assert not isinstance(caught.value, UserCodeError)
    assert str(caught.value).startswith(MISTAKES[target].format(here=os.getcwd()))


def test_import_that_fails_in_the_users_code(shop: Any) -> None:
    """
    Comes with the traceback, which begins there.
    """
    path = shop("orders", "import shop.missing")
    with pytest.raises(UserCodeError) as caught:
        load("shop.orders:pipeline")
    lines = str(caught.value).splitlines()
    assert lines[0] == "shop.orders:pipeline: the code raised"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[2].startswith(f'  File "{path}", line ')
    assert lines[-1] == "ModuleNotFoundError: No module named 'shop.missing'"


def test_syntax_error(shop: Any) -> None:
    """
    Is shown where it is.
    """
    path = shop("orders", "def unfinished(:")
    with pytest.raises(UserCodeError, match=f'File "{path}", line') as caught:
        load("shop.orders:pipeline")
    assert "SyntaxError" in str(caught.value)


def test_function_that_raises(shop: Any) -> None:
    """
    The same.
    """
    shop("orders", "def make(): return 1 / 0")
    with pytest.raises(UserCodeError, match="(?s)shop.orders:make: the code raised.*in make.*ZeroDivisionError"):
        load("shop.orders:make")


@pytest.mark.parametrize("source", ["import sys; sys.exit()", "def pipeline(): raise SystemExit('not set up')"])
def test_code_that_exits(shop: Any, source: str) -> None:
    """
    A script, perhaps: to end with its exit code would look as if a pipeline had run.
    """
    shop("orders", source)
    with pytest.raises(UserCodeError, match="(?s)shop.orders:pipeline: the code raised.*SystemExit"):
        load("shop.orders:pipeline")


def test_pipeline_that_was_started_already(make_pipeline: Any) -> None:
    """
    That is the runner's business.
    """
    pipeline = make_pipeline(name="eager").start()
    with pytest.raises(TargetError, match="pipeline 'eager' was started already, leave that to the runner$"):
        load(pipeline)


def test_class_whose_call_makes_something_else() -> None:
    """
    A handler, perhaps.
    """
    with pytest.raises(TargetError, match="expected it to return a Pipeline, got: "):
        load(make_handler)  # type: ignore[arg-type]


def test_current_directory_is_importable_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    As with ``python -m``.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    add_current_directory()
    add_current_directory()
    assert sys.path.count(os.getcwd()) == 1 and sys.path[0] == os.getcwd()


@pytest.mark.skipif(os.name == "nt", reason="such a directory cannot be removed")
def test_current_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Keeps nobody from what is elsewhere.
    """
    monkeypatch.syspath_prepend(str(tmp_path))  # and puts sys.path back
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    before = list(sys.path)
    add_current_directory()
    assert sys.path == before
    with pytest.raises(TargetError, match=r"there is no module 'shopp' \(sys.path was searched\)$"):
        load("shopp.orders:x")


@pytest.mark.parametrize("command", ["run", "check"])
def test_command_says_it_without_a_traceback(folder: Path, command: str) -> None:
    """
    Exit code 2.
    """
    started = Runner(folder, command, "tests.runner.apps:pipelin")
    assert started.end() == 2
    assert started.output == (
        "broadway-sync: tests.runner.apps:pipelin: module 'tests.runner.apps' has no 'pipelin', "
        "did you mean 'pipeline'?\n"
    )
    started.close()


def test_module_in_the_current_directory(folder: Path) -> None:
    """
    Is found by the command.
    """
    (folder / "here.py").write_text("from tests.runner.apps import short\n", encoding="utf-8")
    started = Runner(folder, "run", "here:short")
    assert started.end() == 0, started
    started.close()
