import structlog.testing

from warren.addresses import Address
from warren.roles.leak_watch import LeakWatch


def test_leaks_are_told_once_an_hour_by_port() -> None:  # FE-9
    leaks = LeakWatch()

    with structlog.testing.capture_logs() as logs:
        for now in (0, 1, 2, 3599, 3600, 3601):
            leaks.watch(80 if now < 3600 else 443, now, is_leak=True)

    assert [log["ports"] for log in logs] == [{80: 4, 443: 1}]
    assert leaks.total == 6


def test_each_program_is_named_once() -> None:  # T49
    leaks = LeakWatch()

    with structlog.testing.capture_logs() as logs:
        for program in ("browser", "mailer", "browser"):
            leaks.leaked(program)

    assert [log["program"] for log in logs] == ["browser", "mailer"]


def test_programs_are_looked_for_once_a_second_and_only_so_many() -> None:
    leaks = LeakWatch()

    looks = []
    with structlog.testing.capture_logs():
        for number in range(64):
            looks += [leaks.watch(80, 2 * number + after, is_leak=True) for after in (0, 0.5)]
            leaks.leaked(f"program {number}")

    assert looks == [True, False] * 64
    assert not leaks.watch(80, 1000, is_leak=True)


def test_programs_are_looked_for_more_and_more_rarely_while_none_is_new() -> None:
    leaks = LeakWatch()

    looks = []
    with structlog.testing.capture_logs():
        for now in range(400):
            if leaks.watch(80, now, is_leak=True):
                looks.append(now)
                leaks.leaked("a new one" if now > 300 else "browser")

    assert looks == [0, 1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 320, 322, 326, 334, 350, 382]


def test_what_was_resolved_through_us_is_no_leak() -> None:
    leaks = LeakWatch()

    leaks.tell([Address("5.5.5.5", 0)])

    assert not leaks.is_leak(Address("5.5.5.5", 443))
    assert leaks.is_leak(Address("5.5.5.6", 443))
    assert not leaks.is_leak(Address("a.example", 443))


def test_only_the_last_thousands_that_were_told_are_known() -> None:
    leaks = LeakWatch()
    first = Address("5.5.0.0", 0)

    leaks.tell([first])
    for number in range(4096):
        leaks.tell([Address(f"6.6.{number // 256}.{number % 256}", 0)])

    assert leaks.is_leak(first)
    assert not leaks.is_leak(Address("6.6.0.0", 0))


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
