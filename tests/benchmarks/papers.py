"""Results on paper, for whatever shows them."""

from benchmarks.measures import Sample
from benchmarks.results import Conditions, Results

CONDITIONS = Conditions(
    date="2026-01-31",
    python="3.11.2",
    kernel="6.1",
    cores=2,
    is_private_network=True,
    congestion_control="reno",
    runs=2,
    is_quick=False,
)


def paper_results(*systems: str) -> Results:
    """Return two runs of a few figures; each system after the first is half as good."""
    results = Results(CONDITIONS, systems)
    for number, system in enumerate(systems):
        for noise in (1.0, 1.1):
            rate, delay = 200 * noise / 2**number, 0.5 * noise * 2**number
            results.add(system, "down", Sample({"down": rate, "down.cpu": delay}, 0.1))
            results.add(system, "echo", Sample({"echo.p50": delay}, 0.7))
        growth = Sample({"idle": 10.0 * number}, None, {"idle MiB": {"client": 3.0 + number}})
        results.add(system, "idle", growth)
    return results
