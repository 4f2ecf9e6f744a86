"""Must be the same here as on the machine on which it was recorded."""

from __future__ import annotations

import json

import pytest

from .elsewhere import RECORD, conditions, measured


def test_the_same_seed_gives_the_same_programs_points_and_reports_as_on_another_machine() -> None:
    record = json.loads(RECORD.read_text())
    there, here = record["conditions"], conditions()
    if others := [name for name in here if there.get(name) != here[name]]:
        pytest.skip(f"recorded with another {', another '.join(others)}; `python -m tests.fuzz.elsewhere` records anew")
    assert measured() == record["measured"]
