"""A configuration file becomes values, or an error that names file, key, found and expected."""

import re
from pathlib import Path

import pytest

from warren.addresses import Address
from warren.config.file import (
    Config,
    check_testing,
    load_config,
    load_network,
    parse_config,
    state_directory,
)
from warren.directory.network_file import NetworkFile
from warren.errors import ConfigError
from warren.founding import found_network
from warren.identity import PeerId
from warren.protocol.choice import Choice

EXAMPLES = Path(__file__).parents[2] / "configs"
PEER = str(PeerId(bytes(32)))
LISTENER = '[[proxy.listener]]\nlisten = "127.0.0.1:1081"\n'
LONG_PORTS = ",".join(map(str, range(1, 200, 2)))
_PORTS = ",".join(map(str, range(1, 120, 2)))
MUCH_POLICY = f"[exit]\npolicy = {[f'accept 1.2.3.{i}:{_PORTS}' for i in range(60)]}\n"
RELAY = '[relay]\nlisten = "192.0.2.1:9440"\n'


def parse(text: str) -> Config:
    return parse_config(text, "peer.toml", Path("/etc/warren"))


def make_network(folder: Path, *, testing: bool) -> NetworkFile:
    addresses = {name: Address("192.0.2.1", port) for name, port in [("a", 1), ("b", 2), ("c", 3)]}
    return found_network(folder, "test", addresses, testing=testing)


def test_every_key_of_a_proxy_has_a_default() -> None:
    config = parse("")

    assert config.proxy.listen == (Address("127.0.0.1", 1080),)
    assert config.proxy.hops == 3
    assert config.relay is None
    assert not config.exit.exit_policy.is_exit


def test_values_become_what_they_mean() -> None:
    config = parse(
        'network = "net.toml"\nstate = "/var/lib/warren"\n'
        '[proxy]\nlisten = ["127.0.0.1:0", "[::1]:0"]\nallow_clients = ["10.0.0.0/8"]\n'
        + RELAY
        + '[exit]\npolicy = ["accept *:443", "reject *:*"]\nresolvers = ["9.9.9.9:53"]\n'
    )

    assert config.network == Path("/etc/warren/net.toml")
    assert config.state == Path("/var/lib/warren")
    assert config.proxy.listen == (Address("127.0.0.1", 0), Address("::1", 0))
    assert [str(known) for known in config.proxy.allow_clients] == ["10.0.0.0/8"]
    assert config.relay is not None
    assert config.relay.listen == Address("192.0.2.1", 9440)
    assert config.exit.exit_policy.is_exit
    assert config.exit.resolvers == (Address("9.9.9.9", 53),)


@pytest.mark.parametrize("name", ["proxy", "relay", "exit", "authority"])
def test_every_example_is_loaded(name: str) -> None:
    config = load_config(EXAMPLES / f"{name}.toml")

    network = load_network(config)

    assert network.name == "example"
    assert (config.relay is not None) == (name in {"relay", "exit"})
    assert config.exit.exit_policy.is_exit == (name == "exit")
    assert (config.authority is not None) == (name == "authority")


def active_lines(path: Path) -> str:
    """Return the file with every key that is commented out put back."""
    return re.sub(r"^# (\w+ = )", r"\1", path.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("name", ["proxy", "relay", "exit", "authority"])
def test_what_the_examples_comment_out_is_valid_too(name: str) -> None:
    text = active_lines(EXAMPLES / f"{name}.toml")

    assert text != (EXAMPLES / f"{name}.toml").read_text()
    parse(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[proxy", "line 1 is not TOML: found '[proxy', expected KEY = VALUE with text in"),
        ("[proxy]\nhops 3", "line 2 is not TOML: found 'hops 3', expected KEY = VALUE with"),
        ("[proxy]\nhops = 3\nhops = 4", "line 3 is 'hops = 4', and this key is there already"),
        ("[log]\n[proxy]\n[log]", "line 3 is '[log]', and this section is there already"),
        ('[proxy]\nlisten = ["a",', "The file ends there: a quote or bracket may be left"),
        ("network = " + "[" * 5000, "too many brackets within brackets"),
        ("network = " + "1" * 5000, "a number of more than 4300 digits"),
        (' {"seed":"123"}', "is JSON, as the files of a state folder are, expected TOML"),
        ("[proxy]\nhops = 1" + "0" * 30, "expected a whole number from 2 to 5"),
        (
            "[proxy]\nconnections = 0",
            "proxy.connections is 0, expected a whole number of at least 1",
        ),
        ("[proxy]\nhops = 1979-05-27", "proxy.hops is a date or time, expected a whole number"),
        ('netwrk = "a"', "has no key 'netwrk': did you mean 'network'?"),
        ("hops = 3", "has no key 'hops': it belongs in [proxy]"),
        ("[proxy]\nx = 1", "section [proxy] has no key 'x': expected one of user, "),
        ("network = 3", "network: expected text in quotes, found 3"),
        ("proxy = 1", "proxy is 1, expected a section"),
        ("[proxy]\nhops = 9", "proxy.hops is 9, expected a whole number from 2 to 5"),
        ("[proxy]\nhops = 1", "proxy.hops is 1, expected a whole number from 2 to 5"),
        ('[proxy]\nhops = "3"', "proxy.hops is '3', expected a whole number"),
        ('[proxy]\nlisten = "127.0.0.1:1"', "proxy.listen is '127.0.0.1:1', expected a list"),
        ('[proxy]\nlisten = ["1080"]', "proxy.listen[0]: '1080' is not HOST:PORT"),
        ('[proxy]\nlisten = ["a.example:1"]', "expected an IP address and a port"),
        ("[proxy]\nlisten = []", "listen is empty: name at least one address"),
        (
            '[proxy]\nallow_clients = ["10.0.0.1/8"]',
            "found '10.0.0.1/8', expected 10.0.0.0/8 for the range, or 10.0.0.1 for one",
        ),
        ('[proxy]\nallow_clients = ["home"]', "found 'home', expected an address or a range such"),
        ('[proxy]\nallow_targets = ["127.0.0.1:0"]', "expected one exact port"),
        ('[proxy]\nlisten = ["127.0.0.1:9", "127.0.0.1:9"]', "127.0.0.1:9 is listened at twice"),
        ('[[proxy.listener]]\nlisten = "127.0.0.1:1080"', "127.0.0.1:1080 is listened at twice"),
        ('[proxy]\nuser = "me"', "proxy: user and password belong together"),
        ('[proxy]\nuser = "a+b"\npassword = "x"', "user is 'a+b', expected a name"),
        ('[proxy]\nuser = "me"\npassword = ""', "password is empty or too long"),
        ('[proxy]\ncountry = "deu"', "proxy: country is 'deu': a country is two letters"),
        ('[proxy]\nexit = "deu"', "proxy.exit: 'deu' is no peer id"),
        ('[proxy]\nown_relays = ["me"]', "proxy.own_relays[0]: 'me' is no peer id"),
        (
            f'[proxy]\nown_relays = ["{PEER}"]\n{LISTENER}exit = "{PEER}"',
            "is one of own_relays, and those are on no path (P2P-2): name another exit, or none",
        ),
        ('[proxy]\nisolate = ["colour"]', "proxy.isolate[0] is 'colour', expected one of "),
        ("[[proxy.listener]]", "section [[proxy.listener]] needs the key 'listen'"),
        (LISTENER + "hops = 6", "proxy.listener[0].hops is 6, expected a whole number from 2 to"),
        (LISTENER + "county = 1", "[[proxy.listener]] has no key 'county': did you mean 'country'"),
        (LISTENER.replace("127.0.0.1", "a.example"), "expected an IP address and a port"),
        ('[log]\nlevel = "loud"', "log.level is 'loud', expected one of 'debug', "),
        ("[log]\njson = 1", "log.json is 1, expected true or false"),
        ("[relay]", "section [relay] needs the key 'listen'"),
        (RELAY + 'family = ["x"]', "relay.family[0]: 'x' is no peer id"),
        (RELAY + "memory_megabytes = 1", "relay.memory_megabytes is 1, expected a whole number"),
        (
            RELAY + "memory_megabytes = 63\nworkers = 4",
            "memory_megabytes is 63 for 4 workers, expected at least 16 for each",
        ),
        ("[proxy]\nmemory_megabytes = 8", "proxy.memory_megabytes is 8, expected a whole number"),
        ('[proxy]\nmemory_megabytes = "64M"', "proxy.memory_megabytes is '64M', expected"),
        (
            RELAY + "workers = 0",
            "workers is 0, expected how many processes carry circuits: 1 to 64",
        ),
        (RELAY + 'address = "0.0.0.0:1"', "at which the other relays reach this one"),
        (RELAY + "[relay.limits]\nlookup = 2", "has no key 'lookup': did you mean 'lookups'?"),
        (RELAY + f'contact = "{"x" * 257}"', "xxx..., a string of more than 256 bytes: expected"),
        (RELAY + f'contact = "{"é" * 129}"', "a string of more than 256 bytes: expected"),
        (RELAY + 'contact = "a\\tb"', r"contact has 'a\tb', a string with unprintable"),
        (RELAY + 'contact = """a\nb"""', r"contact has 'a\nb', a string with unprintable"),
        (RELAY + 'contact = "a\\u0000b"', r"contact has 'a\x00b', a string with unprintable"),
        (RELAY + f"bandwidth = {(1 << 63) - 1}", "relay.bandwidth is 9223372036854775807, exp"),
        (RELAY + "bandwidth = 99_999", "relay.bandwidth is 99999, expected a whole number from"),
        (RELAY + "workers = 3\nbandwidth = 299_999", "bandwidth is 299999 for 3 workers, expected"),
        (
            RELAY + f"bandwidth = {1 << 50}",
            "expected a whole number from 100000 to 1125899906842623",
        ),
        (RELAY + f"family = {[str(PeerId(bytes(32)))] * 2}", "family names a relay twice"),
        (RELAY + MUCH_POLICY, "relay and exit come to a descriptor of "),
        ("[exit]\npolicy = []", "policy is empty: expected rules or a name"),
        ("[exit]\nudp_policy = []", "udp_policy is empty: expected rules or a name"),
        ('[exit]\npolicy = ["accept 10.0.0.1/8:80"]', "expected 10.0.0.0/8 for the network, or"),
        ('[exit]\npolicy = ["accept [2a00::1]/32:80"]', "expected [2a00::]/32 for the network"),
        (f'[exit]\npolicy = ["accept *:{LONG_PORTS}"]', "a rule of 353 characters, expected at"),
        ('network = ""', "network: found empty text '', expected a path"),
        ('network = "~nobody-of-that-name/x"', "and this machine knows no such user"),
        ('state = "a\\u0000b"', "expected a path, which has no zero bytes"),
        ('[relay]\nlisten = "0.0.0.0:1"', "which means every address of this machine"),
        ('[exit]\npolicy = "webb"', "exit: 'webb' is no exit policy: expected one of web, "),
        ('[exit]\npolicy = "accept *:443"', 'or rules in brackets, as in ["accept *:443"]'),
        ('[exit]\npolicy = "web"\nudp_policy = "all"', "exit: 'all' is no exit policy: expected"),
        ('[exit]\npolicy = "web"\nudp_policy = ["go"]', "exit: exit policy for datagrams: 'go'"),
        ('[exit]\nudp_policy = "web"', "exit: udp_policy opens something and policy nothing"),
        ('[exit]\npolicy = ["accept me"]', "exit: exit policy: 'accept me'"),
        ("[exit]\npolicy = 3", "exit.policy is 3, expected text in quotes or a list in brackets"),
        ('[exit]\npolicy = ["accept *:1", 2]', "exit.policy[1] is 2, expected text in quotes"),
        ('[authority]\nname = ""', "authority.name is '', expected text in quotes of at least 1"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_what_is_expected(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)

    assert str(error.value).startswith("peer.toml")
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"schema":1,"seed":"wahr0"}', "is JSON"),
        ('[proxy]\nuser = "me"\npassword = wahr0', "line 3 is not TOML: found 'password...'"),
        ('[proxy]\npassword = "a"\npassword = "wahr0"', "line 3 is 'password...', and this key"),
        ("[proxy]\npassword = wahr0\nuser", "line 2 is not TOML: found 'password...'"),
        ('[proxy]\npassword = ["wahr0"]', "proxy.password is something else, expected text"),
        ('[[proxy.listener]]\npassword = {a = "wahr0"}', "password is a section"),
    ],
)
def test_no_mistake_tells_a_secret(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)

    assert complaint in str(caught.value)
    assert "wahr0" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_a_proxy_that_others_can_reach_needs_a_list_of_clients(host: str) -> None:  # T48
    with pytest.raises(ConfigError, match="which other machines can reach"):
        parse(f'[proxy]\nlisten = ["{host}:1080"]')

    parse(f'[proxy]\nlisten = ["{host}:1080"]\nallow_clients = ["192.0.2.0/24"]')


def test_a_dns_port_is_nowhere_unless_wanted() -> None:
    assert parse("").proxy.dns_listen == ()
    wanted = parse('[proxy]\ndns_listen = ["127.0.0.1:1053"]\nsafe_socks = true').proxy
    assert wanted.dns_listen == (Address("127.0.0.1", 1053),)
    assert wanted.safe_socks


def test_a_password_will_do_as_well() -> None:  # FE-1
    login = 'user = "me"\npassword = "secret"\n'
    open_port = '[[proxy.listener]]\nlisten = "0.0.0.0:1081"\n'

    assert parse(f'[proxy]\nlisten = ["0.0.0.0:1080"]\n{login}').proxy.password == "secret"
    assert parse(open_port + login).proxy.listener[0].password == "secret"
    with pytest.raises(ConfigError, match="which other machines can reach"):
        parse(f"[proxy]\n{login}{open_port}")


def test_listeners_have_rules_of_their_own() -> None:
    config = parse(
        '[proxy]\nlisten = ["127.0.0.1:1080", "[::1]:1080"]\nhops = 4\nsafe_socks = true\n'
        + LISTENER
        + 'country = "DE"\nhops = 2\nsession = true\nisolate = []\nearly_reply = true\n'
    )

    (one, usual), (two, same), (three, extra) = config.proxy.listeners
    assert [str(each) for each in (one, two, three)] == [
        "127.0.0.1:1080",
        "[::1]:1080",
        "127.0.0.1:1081",
    ]
    assert usual is same
    assert (usual.choice, usual.isolate, usual.safe_socks) == (Choice(), ("client_address",), True)
    assert extra.choice == Choice("de", None, 2, keeps_exit=True)
    assert (extra.isolate, extra.safe_socks) == ((), False)
    assert (usual.early_reply, extra.early_reply) == (False, True)


def test_the_listeners_of_the_example_are_valid() -> None:
    text = re.sub(r"^#   ", "", (EXAMPLES / "proxy.toml").read_text(), flags=re.MULTILINE)
    tables = text[text.index("[[proxy.listener]]") :].replace("#\n", "")

    assert [each.listen.port for each in parse(tables).proxy.listener] == [1081, 1082]


@pytest.mark.parametrize("section", ["proxy", "exit"])
def test_exempted_targets_need_a_test_network(section: str, tmp_path: Path) -> None:  # EXT-16
    config = parse(f'[{section}]\nallow_targets = ["127.0.0.1:8000"]')

    with pytest.raises(ConfigError, match=r"allow_targets has 127\.0\.0\.1:8000"):
        check_testing(config, make_network(tmp_path / "real", testing=False))
    check_testing(config, make_network(tmp_path / "test", testing=True))


def test_the_network_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    network = make_network(tmp_path, testing=False)
    path = tmp_path / "proxy.toml"
    path.write_text('network = "network.toml"')

    assert load_network(load_config(path)).network_id == network.network_id


def test_without_a_network_file_a_user_is_told_where_it_comes_from() -> None:
    with pytest.raises(ConfigError, match="no network file: give --network FILE"):
        load_network(Config())


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file"):
        load_config(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml is not UTF-8"):
        load_config(tmp_path / "binary.toml")


def test_a_device_is_not_read_for_ever() -> None:
    with pytest.raises(ConfigError, match="the configuration /dev/zero has more than"):
        load_config(Path("/dev/zero"))


def test_files_that_were_mixed_up_are_told_apart(tmp_path: Path) -> None:
    make_network(tmp_path, testing=False)
    (tmp_path / "peer.toml").write_text("[proxy]\n")

    with pytest.raises(ConfigError, match=r"network\.toml is a network file, not a configuration"):
        load_config(tmp_path / "network.toml")
    with pytest.raises(ConfigError, match=r"peer\.toml: it has nothing of a network file in it"):
        load_network(Config(network=tmp_path / "peer.toml"))


def test_a_mark_at_the_start_of_a_file_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "peer.toml").write_text("[proxy]\nhops = 4\n", encoding="utf-8-sig")

    assert load_config(tmp_path / "peer.toml").proxy.hops == 4


def test_a_relay_at_a_port_still_to_be_chosen_is_configured() -> None:
    assert parse('[relay]\nlisten = "127.0.0.1:0"').relay is not None


def test_a_damaged_network_file_is_named(tmp_path: Path) -> None:
    make_network(tmp_path, testing=False)
    path = tmp_path / "network.toml"
    path.write_text(path.read_text().replace("threshold = 2", "threshold = 3"))

    with pytest.raises(ConfigError, match=r"network\.toml: .*checksum"):
        load_network(Config(network=path))


def test_state_goes_where_the_desktop_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")

    assert state_directory(Config(), "relay") == Path("/home/me/state/warren/relay")
    assert state_directory(Config(state=Path("/srv")), "relay") == Path("/srv")
