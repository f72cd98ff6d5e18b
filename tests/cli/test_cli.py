"""The command line: help that is quick and complete, errors that are one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import trio
from click.testing import CliRunner, Result

from warren.addresses import Address
from warren.cli import main as command_line
from warren.cli.main import COMMANDS, warren
from warren.cli.options import ADDRESS, override
from warren.config.file import Config
from warren.config.proxy import ProxyConfig
from warren.errors import ConfigError
from warren.founding import authority_folder, found_network
from warren.status.control import serve_control

NETWORK = str(Path(__file__).parents[2] / "configs" / "network.toml")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(warren, arguments)


def all_commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


@pytest.mark.parametrize("path", [(), *all_commands(warren)], ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")

    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    """Run `program` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )


def test_help_imports_nothing_slow() -> None:
    program = (
        "import sys; sys.argv = ['warren', '--help']\n"
        "from warren.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "slow = {'trio', 'msgspec', 'structlog', 'cryptography', 'dns'} & set(sys.modules)\n"
        "print(slow, file=sys.stderr)\n"
    )

    done = run_python(program)

    assert all(name in done.stdout for name in COMMANDS)
    assert done.stderr == "set()\n"


def test_a_relay_keeps_neither_a_proxy_nor_rich_in_its_memory() -> None:
    program = (
        "import sys; sys.argv = ['warren', 'relay']\n"
        "from warren.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*(name for name, module in sys.modules.items() if module))\n"
    )

    done = run_python(program)

    loaded = set(done.stdout.split())
    assert {"warren.serving", "warren.roles.relay", "structlog"} <= loaded
    assert not {"warren.roles.client", "warren.roles.proxy", "warren.protocol.socks"} & loaded
    assert not {"rich", "pygments", "httpx", "hypothesis"} & loaded


def test_every_option_has_a_help_text() -> None:
    for path in all_commands(warren):
        command: click.Command = warren
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), name)
            assert found is not None
            command = found
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert [option.name for option in options if not option.help] == []


def test_an_error_of_ours_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["warren", "proxy"])
    monkeypatch.setitem(sys.modules, "rich", None)  # other tests of this process may want it

    with pytest.raises(SystemExit) as ended:
        command_line.main()

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("warren: no network file: give --network FILE")


@pytest.mark.parametrize(
    "arguments", [["proxy", "--listen"], ["proxy", "--dns-listen"], ["dns", "--listen"]]
)
@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_nothing_listens_where_others_can_reach_it(arguments: list[str], address: str) -> None:
    """T48, FE-1: it refuses to start."""
    command = [sys.executable, "-m", "warren", *arguments, address]

    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 2
    assert "which other machines can reach" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_option_is_refused_with_what_is_expected() -> None:
    assert "is not HOST:PORT" in run("proxy", "--listen", "1080").output
    assert "leave out what stands before" in run("env", "--proxy", "http://127.0.0.1:1").output
    assert "this machine is 127.0.0.1" in run("env", "--proxy", "localhost:1080").output
    assert "expected an IP address" in run("relay", "--listen", "a.example:1").output
    assert run("lab", "--relays", "many").exit_code == 2


def test_a_file_that_is_out_of_reach_is_not_called_missing() -> None:
    assert "cannot reach" in run("proxy", "--network", "a" * 300).output
    assert "does not exist" in run("proxy", "--network", "nowhere.toml").output


@pytest.mark.parametrize(
    "command", [["keys", "--state"], ["status", "--state"], ["lab", "--dir"], ["relay", "--state"]]
)
def test_a_folder_without_a_name_is_not_the_one_that_somebody_is_in(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    done = run(*command, "")

    assert done.exit_code == 2
    assert "found empty text '', expected a path" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["relay"], "a relay needs an address to listen at"),
        (["relay", "--listen", "0.0.0.0:1"], "every address of this machine"),
        (["authority"], "an authority must know which one it is"),
        (["proxy", "--listen", "0.0.0.0:1"], "which other machines can reach"),
        (["proxy", "--dns-listen", "0.0.0.0:1"], "dns_listen has 0.0.0.0:1, which other machines"),
        (["dns", "--listen", "[::]:1"], "dns_listen has [::]:1, which other machines"),
        (["dns"], "no network file"),
        (["status", "--state", "x", "--socket", "y"], "mean the same process"),
        (["lab", "--exits", "9", "--relays", "3"], "--exits is 9, expected 1 to 3"),
        (["lab", "--demo", "--relays", "3", "--exits", "1"], "expected 4 at least"),
        (["lab", "--comeback", "5"], "says nothing without --chaos"),
        (["lab", "--chaos-seed", "5"], "says nothing without --chaos"),
        (["lab", "--allow-target", "127.0.0.1:0"], "expected one exact port"),
        (["lab", "--host", "a.example"], "expected NAME=ADDRESS"),
        (["lab", "--host", "printer=127.0.0.1"], "expected two labels"),
        (["lab", "--proxy", "0.0.0.0:0"], "a loopback address"),
        (["lab", "--impair", "150ms"], "expected RELAY=LINE, such as relay1=150ms,12.5MB/s"),
        (["lab", "--impair", "relay1=150"], "found '150', expected a latency such as 150ms"),
        (["lab", "--impair", "relay7=1ms"], "expected relay1 to exit3"),
        (["lab", "--impair", "all=1ms", "--impair", "all=2ms"], "given twice"),
        (["lab", "--country", "de"], "expected RELAY=CC, such as exit1=de"),
        (["lab", "--country", "exit1=deu"], "--country exit1=deu, expected two letters"),
        (["lab", "--country", "exit9=de"], "expected relay1 to exit3"),
        (["lab", "--country", "all=de", "--country", "all=fr"], "given twice"),
        (["network", "relays", "--state", "/nowhere"], "no network file"),
        (
            ["network", "relays", "--network", NETWORK, "--state", "/nowhere"],
            "/nowhere/consensus: No such file",
        ),
        (["network", "relays", "--country", "germany"], "'germany': expected two letters"),
        (["network", "relays", "--country", ""], "'': expected two letters"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: list[str], complaint: str) -> None:
    result = run(*arguments)

    assert isinstance(result.exception, ConfigError)
    assert complaint in str(result.exception)


def test_a_network_is_founded_from_the_command_line(tmp_path: Path) -> None:
    authorities = [f"--authority={name}=192.0.2.1:{port}" for port, name in enumerate("abc", 9000)]

    result = run(
        *("network", "create", "--name", "home", "--dir", str(tmp_path / "net")),
        *(*authorities, "--threshold", "3", "--parameter", "subnet_v4_prefix=24"),
    )

    text = (tmp_path / "net" / "network.toml").read_text()
    assert result.exit_code == 0
    assert "threshold = 3" in text
    assert "subnet_v4_prefix = 24" in text
    assert (tmp_path / "net" / "authorities" / "b" / "identity.key").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--authority", "a"], "expected NAME=HOST:PORT"),
        (["--authority", "a=192.0.2.1:1", "--authority", "a=192.0.2.1:2"], "there twice"),
        (["--authority", "a=192.0.2.1:1", "--parameter", "x=y"], "expected a whole number"),
        (["--authority", "a=192.0.2.1:1"], "1 authorities, expected 3"),
        (["--authority", "a=host:1"], "--authority a: 'host:1' names a host, expected an IP"),
        (["--authority", "a=192.0.2.1"], "--authority a: '192.0.2.1' is not HOST:PORT"),
        (
            ["--testing", "--authority", "a=192.0.2.1:0"],
            "authority 'a' is at 192.0.2.1:0, expected IP:PORT",
        ),
        (
            ["--authority", "a=192.0.2.1:1", "--parameter", "x=1", "--parameter", "x=2"],
            "--parameter x is there twice",
        ),
    ],
)
def test_a_network_with_a_mistake_is_not_founded(
    options: list[str], complaint: str, tmp_path: Path
) -> None:
    folder = str(tmp_path / "net")

    result = run("network", "create", "--name", "home", "--dir", folder, *options)

    assert complaint in str(result.exception)
    assert not (tmp_path / "net" / "network.toml").exists()


def test_a_change_to_a_network_file_is_signed_off(tmp_path: Path) -> None:
    authorities = [f"--authority={name}=192.0.2.1:{port}" for port, name in enumerate("abc", 9000)]
    run("network", "create", "--name", "home", "--dir", str(tmp_path), *authorities)
    path = tmp_path / "network.toml"
    path.write_text(path.read_text().replace("threshold = 2", "threshold = 3"))
    broken = path.read_text().replace("threshold = 3", "threshold = 1")

    assert run("network", "checksum", str(path)).exit_code == 0
    assert run("keys", "--state", str(tmp_path / "authorities" / "a")).exit_code == 0
    path.write_text(broken)
    assert "expected more than half" in str(run("network", "checksum", str(path)).exception)
    assert path.read_text() == broken


def test_a_network_file_is_signed_off_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "network.toml"
    text = Path(NETWORK).read_text()
    path.write_text(text.replace("threshold = 2", "threshold = 3"))
    path.chmod(0o600)
    link = tmp_path / "link.toml"
    link.symlink_to(path)

    assert run("network", "checksum", str(link)).exit_code == 0

    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.toml", "network.toml"]
    (tmp_path / "network.toml.tmp").mkdir()  # no room for the new one
    assert "cannot write" in str(run("network", "checksum", str(path)).exception)
    assert "threshold = 3" in path.read_text()


def test_keys_shows_one_peer_id_for_ever(tmp_path: Path) -> None:
    first = run("keys", "--state", str(tmp_path / "relay"))
    second = run("keys", "--state", str(tmp_path / "relay"))

    assert len(first.stdout.strip()) == 52
    assert second.output == first.stdout
    assert first.stderr == f"warren: made a new one, {tmp_path / 'relay' / 'identity.key'}\n"


async def test_status_prints_all_that_a_process_says_for_programs(tmp_path: Path) -> None:
    async with serve_control(tmp_path, a_relay_that_nobody_knows):
        done = await status_in(tmp_path, "--json")

    assert done == json.dumps(await a_relay_that_nobody_knows(), indent=2) + "\n"


@pytest.mark.parametrize("columns", ["40", "80", "200", "nonsense"])
async def test_status_prints_a_page_for_people_as_wide_as_the_terminal(
    columns: str, tmp_path: Path
) -> None:
    async with serve_control(tmp_path, a_relay_that_nobody_knows):
        done = await status_in(tmp_path, COLUMNS=columns)

    widest = max(map(len, done.splitlines()))
    assert " ".join(done.split()).startswith("Relay of the network home, running for 3 h 12 min ")
    assert widest <= {"40": 40, "200": 100}.get(columns, 80)
    assert widest > {"40": 30, "200": 80}.get(columns, 60)
    assert all(" " <= letter <= "~" for letter in done.replace("\n", ""))


async def a_relay_that_nobody_knows() -> dict[str, Any]:
    trouble = "nobody has connected to this relay: \x1b[31mopen its port in the firewall " * 3
    listing = {"listed": False, "trouble": trouble}
    return {"role": "relay", "network": "home", "running_seconds": 11555, "listing": listing}


async def status_in(folder: Path, *options: str, **environment: str) -> str:
    """Return what ``warren status`` prints about the process whose state is in `folder`."""
    command = [sys.executable, "-m", "warren", "status", "--state", str(folder), *options]
    done = await trio.run_process(
        command, capture_stdout=True, env={**os.environ, "COLUMNS": "", **environment}
    )
    return bytes(done.stdout).decode()


def test_status_without_a_process_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/nonexistent")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    assert "name its state folder with --state" in str(run("status").exception)


def test_options_override_the_file_and_are_checked_like_it() -> None:
    section = ProxyConfig()

    assert override(section, hops=2).hops == 2
    with pytest.raises(ConfigError, match="other machines"):
        override(section, listen=(ADDRESS.convert("0.0.0.0:1", None, None),))
    assert override(Config(), proxy=override(section, hops=4)).proxy.hops == 4


def start_authority(folder: Path, spoil: Callable[[Path], object]) -> tuple[int, str, str]:
    """Start alice with a copy of her keys that `spoil` was let loose on; return how it ended.

    That is the exit code, what it said, and which files of the copy it changed.
    """
    addresses = {
        name: Address("192.0.2.1", port) for port, name in enumerate(["alice", "b", "c"], 1)
    }
    found_network(folder, "home", addresses)
    keys = folder / "alcie"
    shutil.copytree(authority_folder(folder, "alice"), keys)
    spoil(keys)
    config = folder / "peer.toml"
    config.write_text(
        'network = "network.toml"\nstate = "state"\n[authority]\nname = "alice"\nkeys = "alcie"\n'
    )
    before = contents(keys)

    command = [sys.executable, "-m", "warren", "authority", "--config", str(config)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    changed = before.items() ^ contents(keys).items()
    return ended.returncode, ended.stderr, " ".join(sorted({str(path) for path, _ in changed}))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("missing", ["", "identity.key", "link.keys"])
def test_an_authority_never_makes_keys(missing: str, tmp_path: Path) -> None:
    def remove(keys: Path) -> None:
        (keys / missing).unlink() if missing else shutil.rmtree(keys)

    code, said, changed = start_authority(tmp_path, remove)

    assert (code, changed) == (2, "")
    assert f"{tmp_path / 'alcie' / missing}: No such file or directory" in said
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", ["identity.key", "link.keys"])
def test_damaged_keys_of_an_authority_stop_it_and_stay(name: str, tmp_path: Path) -> None:  # T40
    def damage(keys: Path) -> None:
        (keys / name).write_bytes((keys / name).read_bytes()[:-9])

    code, said, changed = start_authority(tmp_path, damage)

    assert (code, changed) == (2, "")
    assert f"{tmp_path / 'alcie' / name} is damaged" in said


@pytest.mark.parametrize(("name", "what"), [("identity.key", "peer id"), ("link.keys", "link key")])
def test_keys_of_another_authority_are_noticed(name: str, what: str, tmp_path: Path) -> None:
    def mix_up(keys: Path) -> None:
        shutil.copy(authority_folder(tmp_path, "b") / name, keys / name)

    code, said, changed = start_authority(tmp_path, mix_up)

    assert (code, changed) == (2, "")
    assert f"the {what} of alice is not the one in the network file" in said
