"""What docs/fuzzing.md shows is what comes out."""

from __future__ import annotations

import importlib
import linecache
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentrun.testing import ToolCheckFailed

PAGE = (Path(__file__).parent.parent / "docs" / "fuzzing.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
OUTPUT = re.findall(r"^```text\n(.*?)\n```$", PAGE, re.M | re.S)
FIRST, REPLAY, WRONG_FIX, RIGHT_FIX, MODULE, SYNC, SYNC_FIX, WITHOUT_AGENTS, WHOLE_AGENT = PYTHON


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for name in ("test_query", "test_store", "test_crunch"):
        sys.modules.pop(name, None)
    linecache.clearcache()


def page_with(fix: str = "", more: str = "") -> ModuleType:
    """The page's test file, with another ``query``, or with more at its end."""
    source = FIRST
    if fix:
        tool = re.search(r"async def query.*?\n(?=\n\npools)", source, re.S)
        assert tool is not None
        source = source.replace(tool[0], fix)
    return module("test_query", f"{source}\n\n{more}")


def module(name: str, source: str) -> ModuleType:
    Path(f"{name}.py").write_text(source, encoding="utf-8")
    importlib.invalidate_caches()
    return importlib.import_module(name)


def test_the_bug_is_told_as_shown() -> None:
    with pytest.raises(ToolCheckFailed) as caught:
        page_with().test_query_can_be_stopped_anywhere()
    assert str(caught.value) == OUTPUT[0]


def test_the_failure_is_replayed_by_the_line_that_is_shown() -> None:
    (shown,) = re.findall(r'only="(.*?)"', REPLAY)
    assert f"only='{shown}'" in OUTPUT[0]
    names: dict[str, Any] = vars(page_with())
    with pytest.raises(ToolCheckFailed, match="1 of 1 runs"):
        exec(REPLAY, names)


def test_the_wrong_fix_fails_as_shown() -> None:
    with pytest.raises(ToolCheckFailed) as caught:
        page_with(WRONG_FIX).test_query_can_be_stopped_anywhere()
    assert str(caught.value) == OUTPUT[1]


def test_the_right_fix_passes_as_shown() -> None:
    page = page_with(RIGHT_FIX)
    page.test_query_can_be_stopped_anywhere()
    report = page.check_tool(page.query, {"sql": "select 1"}, deps=page.make_pool, oracle=page.every_connection_is_back)
    assert without_times(str(report)) == without_times(OUTPUT[2])


def test_the_sweeps_of_code_without_agents_and_of_a_whole_agent_pass() -> None:
    page = page_with(RIGHT_FIX, f"{WITHOUT_AGENTS}\n\n{WHOLE_AGENT}")
    page.test_the_pool_can_be_cancelled_anywhere()
    page.test_the_agent_can_be_stopped_anywhere()


def test_the_lock_of_a_module_that_a_stop_leaves_taken_is_told_as_shown() -> None:
    page = module("test_store", MODULE)
    with pytest.raises(ToolCheckFailed) as caught:
        page.test_store_can_be_stopped_anywhere()
    assert str(caught.value) == OUTPUT[3]


def test_the_sync_tool_that_does_not_look_fails_as_shown_and_passes_when_it_looks() -> None:
    page = module("test_crunch", SYNC)
    with pytest.raises(ToolCheckFailed) as caught:
        page.test_crunch_can_be_stopped_anywhere()
    assert str(caught.value) == OUTPUT[4]
    exec(SYNC_FIX, vars(page))
    page.test_crunch_can_be_stopped_anywhere()


def without_times(text: str) -> str:
    return re.sub(r"\d+\.\d", "-", text)
