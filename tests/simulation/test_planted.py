"""The simulation finds every bug that is planted, within two minutes each. See ``conftest.py`` for how to run it."""

from __future__ import annotations

import pytest

from tests.simulation.planted import PLANTED, find


@pytest.mark.parametrize("name", list(PLANTED))
@pytest.mark.timeout(180)
def test_planted(name: str) -> None:
    outcome = find(name, 120, 1)
    assert outcome is not None, f"no schedule has found it: {PLANTED[name].__doc__}"
    print(f"{name}: seed {outcome[0]}")
