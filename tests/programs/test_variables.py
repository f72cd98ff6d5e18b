"""The variables of ``warren env``, and real shells that are told to set them."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.browsers import canary
from tests.support.journeys import wait_until
from warren.addresses import Address
from warren.errors import ConfigError
from warren.programs.variables import (
    EXCEPTIONS,
    Shell,
    evaluation_hint,
    proxy_variables,
    setting_lines,
    shell_of,
    unsetting_lines,
)

PROXY = Address("127.0.0.1", 1080)
HOSTILE = 'it\'s "$(id)" `id` \\ $HOME ;&| \n *?[a] {b,c} !x #y'
#: What a person may have set before.
BEFORE = {"no_proxy": "localhost", "NO_PROXY": "localhost", "http_proxy": "http://old:1"}
SHELLS = [
    pytest.param("sh", Shell.SH, id="sh"),
    pytest.param("bash", Shell.SH, id="bash", marks=pytest.mark.needs("bash")),
    pytest.param("fish", Shell.FISH, id="fish", marks=pytest.mark.needs("fish")),
]


def variables_after(program: str, lines: list[str]) -> dict[str, str]:
    """Return the environment of what a real shell starts once it has done `lines`."""
    report = f"{sys.executable} -c 'import os; print(dict(os.environ))'"
    plain = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **BEFORE}
    found = shutil.which(program)
    assert found is not None
    done = subprocess.run(
        [found, "-c", "\n".join([*lines, report])],
        env=plain,
        capture_output=True,
        text=True,
        check=True,
    )
    told = eval(done.stdout.splitlines()[-1])
    assert isinstance(told, dict)
    return told


def test_the_web_goes_over_http_and_the_rest_over_socks_with_names_left_to_the_exit() -> None:
    variables = proxy_variables(PROXY)

    assert variables["http_proxy"] == variables["https_proxy"] == "http://127.0.0.1:1080"
    assert variables["ftp_proxy"] == variables["all_proxy"] == "socks5h://127.0.0.1:1080"
    assert {name.lower() for name in variables} == set(variables) - set(map(str.upper, variables))
    assert all(variables[name.upper()] == value for name, value in variables.items())


def test_an_ipv6_proxy_stands_in_brackets() -> None:
    assert proxy_variables(Address("::1", 9))["http_proxy"] == "http://[::1]:9"


@pytest.mark.parametrize(("program", "family"), SHELLS)
def test_a_real_shell_sets_what_is_printed_and_forgets_exceptions(
    program: str, family: Shell
) -> None:
    wanted = proxy_variables(Address("::1", 1080), user="it's $(id) + 50%")

    found = variables_after(program, setting_lines(family, wanted))

    assert {name: found.get(name) for name in wanted} == wanted
    assert not set(EXCEPTIONS) & set(found)


@pytest.mark.parametrize(("program", "family"), SHELLS)
def test_a_real_shell_takes_no_value_for_anything_but_text(program: str, family: Shell) -> None:
    found = variables_after(program, setting_lines(family, {"all_proxy": HOSTILE}))

    assert found["all_proxy"] == HOSTILE


@pytest.mark.parametrize(("program", "family"), SHELLS)
def test_a_real_shell_takes_all_of_them_away_again(program: str, family: Shell) -> None:
    names = tuple(proxy_variables(PROXY))

    found = variables_after(program, unsetting_lines(family, names))

    assert not set(names) & set(found)
    assert found["no_proxy"] == "localhost"


@pytest.mark.needs("wget")
@pytest.mark.parametrize("is_set", [False, True])
def test_a_program_without_socks_stops_instead_of_going_there_directly(is_set: bool) -> None:
    variables = proxy_variables(PROXY) if is_set else {}

    with canary(socket.SOCK_STREAM) as bird:
        subprocess.run(
            ["wget", "-q", "-t", "1", "-T", "5", f"ftp://{bird.address}/letter"],
            env={"PATH": os.environ["PATH"], **variables},
            check=False,
        )
        wait_until(lambda: bool(bird.heard) or is_set, 5, "a connection")

    assert bool(bird.heard) is not is_set


@pytest.mark.needs("bash")
def test_lines_that_a_shell_has_joined_mean_the_same() -> None:
    wanted = proxy_variables(PROXY)

    found = variables_after("bash", [" ".join(setting_lines(Shell.SH, wanted))])

    assert {name: found.get(name) for name in wanted} == wanted


def test_powershell_gets_its_own_words() -> None:
    # Its quotes are known from the language's reference alone: Debian has no PowerShell.
    lines = setting_lines(Shell.POWERSHELL, {"all_proxy": "it's"})

    assert lines[0] == "$env:all_proxy = 'it''s';"
    assert lines[1:] == ["$env:no_proxy = $null;", "$env:NO_PROXY = $null;"]


@given(st.text(st.characters(codec="utf-8", exclude_characters=":"), min_size=1, max_size=60))
@settings(max_examples=50)
def test_no_letter_of_a_user_name_means_anything_to_a_shell(user: str) -> None:
    value = proxy_variables(PROXY, user)["http_proxy"]

    assert set(value) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%-_.~:/@"
    )


@pytest.mark.parametrize(
    ("user", "complaint"),
    [("", "0 bytes"), ("a:b", "3 bytes and a colon"), ("ä" * 128, "256 bytes")],
)
def test_a_user_name_that_does_not_fit_is_refused(user: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"the user name has {complaint}, expected 1 to 255"):
        proxy_variables(PROXY, user)


@pytest.mark.parametrize(
    ("programs", "shell"),
    [
        (["fish\n", "/bin/bash"], Shell.FISH),
        (["-bash", "/usr/bin/fish"], Shell.SH),
        (["python3", "/usr/bin/fish"], Shell.FISH),
        (["make", "/opt/pwsh"], Shell.POWERSHELL),
        (["pwsh.exe"], Shell.POWERSHELL),
        (["", ""], Shell.SH),
    ],
)
def test_the_shell_is_the_first_that_is_known(programs: list[str], shell: Shell) -> None:
    assert shell_of(*programs) == shell


def run(*arguments: str, shell: str = "/bin/sh") -> str:
    """Run the command as a process, because it looks at who has started it: here, no shell."""
    return subprocess.run(
        [sys.executable, "-m", "warren", "env", *arguments],
        env={**os.environ, "SHELL": shell},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_command_prints_what_its_options_say() -> None:
    assert run("--shell", "sh") == "\n".join(setting_lines(Shell.SH, proxy_variables(PROXY))) + "\n"
    assert "set -gx all_proxy 'socks5h://work:any@[::1]:99';" in run(
        *("--shell", "fish", "--proxy", "[::1]:99", "--user", "work")
    )
    assert run("--shell", "powershell", "--unset").startswith("$env:http_proxy = $null;\n")


def test_the_command_speaks_the_language_of_the_usual_shell_where_nothing_else_is_known() -> None:
    assert run(shell="/usr/bin/fish").startswith("set -gx ")
    assert run(shell="/bin/zsh").startswith("export ")


@pytest.mark.needs("fish")
def test_the_command_speaks_the_language_of_the_shell_that_asks() -> None:
    asked = f"{sys.executable} -m warren env; true"

    done = subprocess.run(
        ["fish", "--no-config", "-c", asked],
        env={**os.environ, "SHELL": "/bin/sh"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("set -gx http_proxy")


def test_the_hint_is_what_the_help_says() -> None:
    hints = {shell: evaluation_hint(shell, "warren env") for shell in Shell}

    told = run("--help")

    assert all(hint in told for hint in hints.values())
    assert hints[Shell.SH] == 'eval "$(warren env)"'
    assert hints[Shell.FISH] == "warren env | source"
    assert hints[Shell.POWERSHELL] == "warren env | Out-String | Invoke-Expression"
