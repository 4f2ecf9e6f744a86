"""The benchmarks work: each measure in its tiniest size. What the figures are is nobody's business here."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from xml.etree import ElementTree

import anyio
import pytest
import sniffio

from . import measures, peers
from .contest.contestant import Contestant
from .contest.driver import Driver, Script, Seen
from .contest.rows import ROWS
from .contest.worker import driver_of
from .harness import Aim, Comparison, Settings, compare, on_backends
from .profiles import layer_of, purpose_of
from .publish import publish
from .report import Report
from .server import serving

MEASURES = [module.name for module in pkgutil.iter_modules(measures.__path__) if module.name != "peers"]
LOOPS = set(MEASURES) - {"imports", "command_line"}  # these start processes, on no event loop
DRIVERS = [module.name for module in pkgutil.iter_modules(peers.__path__)]
OWN = [name for name in DRIVERS if name.startswith("own_")]
CHECKED_ONCE = pytest.mark.oldest_python("`nox -s bench` runs the benchmarks on no other")


class _Lines:
    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@CHECKED_ONCE
@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, backend) for name in MEASURES for backend in ("asyncio", "trio") if backend == "asyncio" or name in LOOPS],
)
def test_each_measure_runs_in_its_tiniest_size(name: str, backend: str) -> None:
    module = importlib.import_module(f"{measures.__name__}.{name}")
    out = _Lines()
    report = Report(out)  # type: ignore[arg-type]
    report.title(name, module.TITLE)
    for comparison in module.measure(Settings(quick=True, backends=(backend,), tiny=True)):
        report.add(comparison)
    report.end()
    assert report.rows
    assert all(row["programs"] for row in report.rows)


@CHECKED_ONCE
@pytest.mark.parametrize("name", OWN)
def test_each_own_contestant_does_every_row(name: str) -> None:
    with Contestant(name) as contestant, serving(3) as url:
        for row in sorted(set(ROWS) - set(contestant.driver.cannot)):
            value, remark = contestant.ask(row, 3, url, 60.0)
            assert value >= 0 or row == "further"  # a difference, which noise may make negative
            assert not remark


@pytest.mark.parametrize("name", DRIVERS)
def test_the_requirements_of_each_peer_are_pinned_and_read_without_its_packages(name: str) -> None:
    driver = driver_of(name)
    assert isinstance(driver, Driver)
    assert all("==" in requirement for requirement in driver.requirements)


def test_event_loops_take_turns_round_by_round_and_one_that_has_fewer_leaves() -> None:
    seen: list[str] = []
    rounds = {"asyncio": 3, "trio": 1}

    async def measure(backend: str) -> Comparison:
        async def program() -> None:
            seen.append(sniffio.current_async_library())
            await anyio.sleep(0)

        samples = await compare({"program": program}, rounds=rounds[backend])
        return Comparison("nothing", backend, samples)

    found = list(on_backends(Settings(backends=("asyncio", "trio")), measure))
    assert [(each.backend, len(each.samples["program"])) for each in found] == [("asyncio", 3), ("trio", 1)]
    assert seen == ["asyncio", "trio", "asyncio", "trio", "asyncio", "asyncio"]


def test_a_measure_that_fails_on_one_event_loop_does_not_hold_up_the_other() -> None:
    async def measure(backend: str) -> Comparison:
        async def program() -> None:
            if backend == "trio":
                raise ValueError("broken")

        return Comparison("nothing", backend, await compare({"program": program}, rounds=2))

    with pytest.raises(ValueError, match="broken"):
        list(on_backends(Settings(backends=("trio", "asyncio")), measure))


def test_a_script_says_what_there_is_to_see() -> None:
    assert Script(turns=2, calls=2).expected() == Seen(["done"], ["0.0", "0.1", "1.0", "1.1"])
    assert Script(deltas=2).expected() == Seen(["0 ", "1 "], [])


def test_an_aim_that_is_missed_is_told_and_so_is_one_that_is_met() -> None:
    out = _Lines()
    report = Report(out)  # type: ignore[arg-type]
    report.title("m", "")
    samples = {"agentrun": [3.0, 3.0], "SC floor": [2.0, 2.0], "slow": [9.0, 9.0]}
    aims = [Aim("SC floor", 1.0), Aim("SC floor", 2.0), Aim("agentrun", program="slow", at_least=1.0)]
    report.add(Comparison("it", "asyncio", samples, aims=aims))
    report.add(Comparison("it", "trio", {"agentrun": [6.0]}))
    report.end()
    assert "1.50 of at most 1x SC floor: NOT MET" in out.text
    assert "1.50 of at most 2x SC floor: met" in out.text
    assert "3.00 of at least 1x agentrun: met" in out.text
    assert "2.00 of at most 1.5x asyncio: NOT MET" in out.text
    assert "aims: 2 met, 2 not met" in out.text


def test_figures_are_put_between_the_marks_of_the_page_and_into_the_chart(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    (tmp_path / "benchmarks.md").write_text(page, encoding="utf-8")
    report = Report(_Lines())  # type: ignore[arg-type]
    for measure in ("peers", "turn"):
        report.title(measure, "")
        samples = {"agentrun": [3e-6], "SC floor": [2e-6], "bare loop": [1e-6], "a <peer>": [30e-6]}
        report.add(Comparison(f"of {measure}", "asyncio", samples, aims=[Aim("SC floor", 1.0)]))
    publish({"about": "Python 9", **report.as_json()}, tmp_path)
    lines = (tmp_path / "benchmarks.md").read_text(encoding="utf-8").splitlines()
    assert "| of peers | 3.00 us | 2.00 us (0.67) | 1.00 us (0.33) | 30.00 us (10) |" in lines
    assert "| of turn | 3.00 us | 3.00 | 1.50 |  |  |  |" in lines
    assert "0 of 2 aims are met. Those that are not:" in lines
    assert "| turn, of turn, asyncio | 1.50 of at most 1x SC floor |" in lines
    drawn = ElementTree.fromstring((tmp_path / "benchmarks.svg").read_text(encoding="utf-8"))
    assert "a <peer>: 10.00 times agentrun" in [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]


def test_what_a_function_is_for_follows_from_its_file() -> None:
    assert purpose_of(("/x/agentrun/runtime/hub.py", 1, "publish")) == "events"
    assert purpose_of(("/x/agentrun/core/limits.py", 1, "f")) == "history and decisions"
    assert layer_of(("/x/site-packages/anyio/_core/_tasks.py", 1, "f")) == "anyio"
    assert layer_of(("/x/lib/python3.11/contextlib.py", 1, "f")) == "standard library and others"
