"""What all tests share: how hypothesis searches, and what a test needs of the machine."""

import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.support.programs import (
    PACKAGES,
    PERMISSIONS,
    missing_permissions,
    missing_programs,
)

# A busy machine is no finding: examples are counted, not timed.
settings.register_profile(
    "warren", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("warren")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs(program, ...): drives or needs these of the system; see support/programs.py",
    )
    # A shell lets what it starts with "&" ignore it, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = {name for marker in item.iter_markers("needs") for name in marker.args}
    known = PACKAGES.keys() | PERMISSIONS.keys()
    assert wanted <= known, f"name the package of {wanted - known}"
    missing = wanted & set(missing_programs())
    if wanted & PERMISSIONS.keys():
        missing |= wanted & set(missing_permissions())
    if missing:
        # scripts/test names the packages at its end, and .ci/run has installed them all.
        pytest.skip(f"missing on this machine: {', '.join(sorted(missing))}")
