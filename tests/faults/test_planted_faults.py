"""Faults that a maintainer could make in the runtime: the sweeps find each of them, and name the law that it breaks.

Each is planted into code that is good otherwise; the same run with the same sweep is clean without it. A fault whose
code has changed is an error here: it must be planted anew.
"""

from __future__ import annotations

from typing import Any

import pytest

from agentrun.testing import SweepReport, interrupt_everywhere, replay

from .catalog import Fault
from .containment_faults import FAULTS as CONTAINMENT_FAULTS
from .core_faults import FAULTS as CORE_FAULTS
from .driver_faults import FAULTS as DRIVER_FAULTS
from .hub_faults import FAULTS as HUB_FAULTS
from .model_faults import FAULTS as MODEL_FAULTS
from .opening_faults import FAULTS as OPENING_FAULTS
from .planting import Edit, StaleFault, plant
from .scenes import SCENES as SCENES_WITHOUT_THREADS
from .thread_faults import FAULTS as THREAD_FAULTS
from .thread_scenes import THREAD_SCENES
from .tool_faults import FAULTS as TOOL_FAULTS

pytestmark = pytest.mark.oldest_python("a planted fault is a proof about the sweeps, not about the Python")

FAULTS = [
    *CORE_FAULTS,
    *HUB_FAULTS,
    *DRIVER_FAULTS,
    *OPENING_FAULTS,
    *TOOL_FAULTS,
    *CONTAINMENT_FAULTS,
    *MODEL_FAULTS,
    *THREAD_FAULTS,
]
SCENES = SCENES_WITHOUT_THREADS | THREAD_SCENES


def sweep(name: str, actions: Any, backend: Any, limit: int | None = None) -> SweepReport:
    scene = SCENES[name]
    limit = limit or scene.limit
    return interrupt_everywhere(
        scene.make, "Go", actions=actions, backends=[backend], oracle=scene.judge, limit=limit, **scene.options
    )


@pytest.mark.parametrize(
    ("fault", "backend"),
    [pytest.param(fault, backend, id=f"{fault.name}-{backend}") for fault in FAULTS for backend in fault.backends],
)
def test_a_planted_fault_is_found_and_its_law_is_named(
    fault: Fault, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, fault.edits)
    report = sweep(fault.scene, fault.actions, backend, fault.limit)
    laws = sorted({violation.law or 0 for failure in report.failures for violation in failure.violations})
    print(f"{fault.name}: {len(report.failures)} of {report.injections} runs broke the laws {laws}")
    assert report.failures, f"not found: {fault.name}"
    assert fault.law in laws, f"law {fault.law} was expected, and laws {laws} were named\n{report}"
    assert f"law {fault.law}: " in str(report)
    again = replay(report.failures[-1])
    assert again is not None
    assert again.violations == report.failures[-1].violations


@pytest.mark.parametrize(
    ("scene", "backend"),
    [
        pytest.param(name, backend, id=f"{name}-{backend}")
        for name, scene in SCENES.items()
        for backend in scene.backends
    ],
)
def test_without_a_fault_the_same_runs_are_clean(scene: str, backend: str) -> None:
    report = sweep(scene, SCENES[scene].actions, backend)
    report.raise_if_failed()
    assert report.diverged == 0
    assert report.injections


def test_every_fault_is_swept_as_its_scene_is_without_it() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40
    for fault in FAULTS:
        scene = SCENES[fault.scene]
        assert set(fault.actions) <= set(scene.actions), fault.name
        assert set(fault.backends) <= set(scene.backends), fault.name


def test_a_fault_whose_code_has_changed_is_an_error_that_shows_the_missing_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = "agentrun.core.inbox:Inbox.take"
    with pytest.raises(StaleFault, match=r"Inbox.take has this 0 times instead of once; .*\n.*taken = nothing"):
        plant(monkeypatch, [Edit(take, "taken = nothing", "")])
    with pytest.raises(StaleFault, match="3 times instead of once"):
        plant(monkeypatch, [Edit(take, "self.pending", "")])
    with pytest.raises(StaleFault, match="there is no steal"):
        plant(monkeypatch, [Edit("agentrun.core.inbox:Inbox.steal", "", "")])
