import structlog.testing

from warren.roles.leak_watch import LeakWatch


def test_leaks_are_told_once_an_hour_by_port() -> None:  # FE-9
    leaks = LeakWatch()

    with structlog.testing.capture_logs() as logs:
        for now in (0, 1, 2, 3599, 3600, 3601):
            leaks.watch(80 if now < 3600 else 443, now, is_leak=True)

    assert [log["ports"] for log in logs] == [{80: 1}, {80: 3, 443: 1}]
    assert leaks.total == 6


def test_ordinary_requests_are_not_told() -> None:
    leaks = LeakWatch()

    with structlog.testing.capture_logs() as logs:
        leaks.watch(443, 0, is_leak=False)

    assert not logs
    assert leaks.total == 0


def test_a_plaintext_port_is_told_once() -> None:  # FE-14
    leaks = LeakWatch()

    with structlog.testing.capture_logs() as logs:
        for port in (23, 110, 23, 110, 25):
            leaks.watch(port, 0, is_leak=False)

    assert [log["port"] for log in logs] == [23, 110]


def test_the_table_of_ports_stays_small() -> None:
    leaks = LeakWatch()

    with structlog.testing.capture_logs() as logs:
        for port in range(1000, 2000):
            leaks.watch(port, 0, is_leak=True)
        leaks.watch(80, 4000, is_leak=True)

    assert len(logs[-1]["ports"]) == 16
