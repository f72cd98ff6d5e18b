"""``warren lab``: a whole network on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from warren.addresses import Address, IPAddress, parse_ip
from warren.cli.options import ADDRESS, FOLDER
from warren.errors import ConfigError

if TYPE_CHECKING:
    from warren.lab.chaos import Rule
    from warren.lab.line import Impairment
    from warren.lab.plan import LabOptions

#: Three for a path, and one that takes the place of the one that is killed.
_DEMO_RELAYS = 4


@click.command(short_help="Run a whole network on this machine.")
@click.option("--relays", default=9, show_default=True, help="Relays, the exits among them.")
@click.option("--exits", default=3, show_default=True, help="How many of the relays are exits.")
@click.option("--authorities", default=3, show_default=True, help="Directory authorities.")
@click.option("--workers", default=1, show_default=True, help="Processes of each relay and exit.")
@click.option(
    "--bandwidth",
    type=int,
    help="Bytes per second that each relay and exit sends at most; what the machine can, unless "
    "given.",
)
@click.option(
    "--memory",
    type=int,
    help="MiB that each relay, exit and proxy keeps for others at most; a quarter of what there "
    "is, unless given.",
)
@click.option(
    "--proxy",
    type=ADDRESS,
    default="127.0.0.1:0",
    show_default=True,
    help="Where the proxy listens; port 0 is a free one.",
)
@click.option(
    "--allow-target",
    "allow_targets",
    type=ADDRESS,
    multiple=True,
    help="Let streams and datagrams reach this one address and port, whatever the rules for "
    "targets say. May be repeated.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME=ADDRESS",
    help="A name that the lab's exits resolve to this address. May be repeated.",
)
@click.option(
    "--impair",
    "impairments",
    multiple=True,
    metavar="RELAY=LINE",
    help="Put a line in front of a relay (relay1, exit1, ... or all), so that every connection to "
    "it is long, slow or lossy: a latency one way, a rate in each direction, the probability that "
    "a segment stalls, as in relay1=150ms,12.5MB/s,stall=0.001. May be repeated.",
)
@click.option(
    "--country",
    "countries",
    multiple=True,
    metavar="RELAY=CC",
    help="The country that the authorities find a relay (relay1, exit1, ... or all) in, as in "
    "exit1=de. May be repeated.",
)
@click.option(
    "--dir",
    "directory",
    type=FOLDER,
    help="Keep keys, state and logs in this new folder, instead of a temporary one.",
)
@click.option(
    "--chaos",
    metavar="RULES",
    help='Let things go wrong while requests go through, as in "kill middle every 5s; stop guard '
    '10s every 60s; cut any exit once at 30s", and tell what came of it. Verbs: kill, stop, cut. '
    "Victims: guard, middle and exit of the proxy's circuit, any relay, any exit, any authority, "
    "or a name.",
)
@click.option("--chaos-seed", default=1, show_default=True, help="Of what is drawn at random.")
@click.option(
    "--comeback",
    type=click.FloatRange(0, 3600),
    default=2.0,
    show_default=True,
    help="Seconds after which a killed member is started again.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for programs.")
@click.option("--demo", is_flag=True, help="Fetch through the network, show how, and end.")
def lab(
    relays: int,
    exits: int,
    authorities: int,
    workers: int,
    bandwidth: int | None,
    memory: int | None,
    proxy: Address,
    allow_targets: tuple[Address, ...],
    hosts: tuple[str, ...],
    impairments: tuple[str, ...],
    countries: tuple[str, ...],
    directory: Path | None,
    chaos: str | None,
    chaos_seed: int,
    comeback: float,
    as_json: bool,
    demo: bool,
) -> None:
    """Run a whole network on this machine, each peer a process of its own.

    It listens on loopback addresses only, needs no internet, and ends with Ctrl-C, leaving
    nothing behind. When it is up it prints a line to copy that fetches a page through three
    relays. With --demo it does that itself, proves from the relays' own counters which three
    they were, kills one of them to see what happens, and ends. With --chaos members are killed,
    stopped and cut off by your rules, and a summary says what applications saw.
    """
    import trio

    from warren.lab import demo as demonstration
    from warren.lab.havoc import Havoc
    from warren.lab.laboratory import Lab, run_lab
    from warren.lab.plan import LabOptions
    from warren.lab.report import Report
    from warren.service import Announcer, LogStyle, run_process

    if demo and relays < _DEMO_RELAYS:
        raise ConfigError(
            f"--relays is {relays}, expected {_DEMO_RELAYS} at least: --demo kills one of three"
        )
    rules = _read_chaos(chaos, demo=demo)
    options = LabOptions(
        relays=relays,
        exits=exits,
        authorities=authorities,
        proxy=proxy,
        allow_targets=allow_targets,
        hosts=_read_hosts(hosts),
        impairments=_lines_for(rules, _read_impairments(impairments)),
        countries=_read_countries(countries),
        directory=directory,
        workers=workers,
        bandwidth=bandwidth,
        memory=memory,
    )
    _check_chaos(rules, options)
    report = Report(as_json=as_json)

    async def use(running: Lab) -> None:
        if demo:
            await demonstration.show(running, report)
        elif rules:
            await Havoc(running, rules, report, seed=chaos_seed, comeback=comeback).run()
        else:
            await trio.sleep_forever()

    async def main(_announcer: Announcer) -> None:
        await run_lab(options, report, use)

    sys.exit(run_process(main, style=LogStyle(level="warning")))


def _read_chaos(text: str | None, *, demo: bool) -> tuple["Rule", ...]:
    from warren.lab.chaos import parse_chaos

    if text is None:
        context = click.get_current_context()
        for name in ("chaos_seed", "comeback"):
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} says nothing without --chaos: add it, or leave it out")
        return ()
    if demo:
        raise ConfigError("--demo shows a network that is well: leave out --chaos, or --demo")
    try:
        return parse_chaos(text)
    except ConfigError as error:
        raise ConfigError(f"--chaos: {error}") from error


def _lines_for(
    rules: tuple["Rule", ...], impairments: dict[str, "Impairment"]
) -> dict[str, "Impairment"]:
    """Put a perfect line in front of every relay without one, if anything is to be cut."""
    from warren.lab.chaos import Verb
    from warren.lab.line import Impairment
    from warren.lab.plan import EVERY_RELAY

    if not any(rule.verb is Verb.CUT for rule in rules):
        return impairments
    return {EVERY_RELAY: Impairment(), **impairments}


def _check_chaos(rules: tuple["Rule", ...], options: "LabOptions") -> None:
    from warren.lab.chaos import check_victims

    authorities = tuple(f"authority{n}" for n in range(1, options.authorities + 1))
    names = (*authorities, *options.relay_names, "proxy")
    try:
        check_victims(rules, names, options.relay_names)
    except ConfigError as error:
        raise ConfigError(f"--chaos: {error}") from error


def _read_hosts(texts: tuple[str, ...]) -> dict[str, list[IPAddress]]:
    """Read ``NAME=ADDRESS``; a name may have several addresses."""
    hosts: dict[str, list[IPAddress]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        address = parse_ip(value)
        if address is None:
            expected = "NAME=ADDRESS, such as site.example.net=127.0.0.1"
            raise ConfigError(f"--host {text[:80]!r}: expected {expected}")
        hosts.setdefault(name.lower(), []).append(address)
    return hosts


def _read_impairments(texts: tuple[str, ...]) -> dict[str, "Impairment"]:
    """Read ``RELAY=LINE``; each relay has one line."""
    from warren.lab.line import Impairment

    impairments: dict[str, Impairment] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            expected = "RELAY=LINE, such as relay1=150ms,12.5MB/s"
            raise ConfigError(f"--impair {text[:80]!r}: expected {expected}")
        if name in impairments:
            raise ConfigError(f"--impair {name[:80]!r} is given twice, expected one line for each")
        try:
            impairments[name] = Impairment.parse(value)
        except ConfigError as error:
            raise ConfigError(f"--impair {text[:80]!r}: {error}") from error
    return impairments


def _read_countries(texts: tuple[str, ...]) -> dict[str, str]:
    """Read ``RELAY=CC``; each relay is in one country."""
    countries: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--country {text[:80]!r}: expected RELAY=CC, such as exit1=de")
        if name in countries:
            raise ConfigError(f"--country {name[:80]!r} is given twice, expected one for each")
        countries[name] = value.lower()
    return countries
