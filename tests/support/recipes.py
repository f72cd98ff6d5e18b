"""The recipes of docs/clients.md, and a kitchen where they are tried as they stand there.

A recipe is a fenced block below a heading. One without a language is a file that a recipe behind it
uses; its first line is a comment that says its name. Before a recipe is tried, its port becomes
that of a lab's proxy and its names those of the origin. What a person's own machine would bring
along (trusted certificates, a key for ssh, sources for apt) comes from the environment or from
programs of the same name that stand before the real ones on the PATH.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePath

from tests.support.journeys import without_proxies
from tests.support.web_origin import NAME, Origin

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "clients.md"
SECONDS = 60

_PART = re.compile(r"^### ([^\n]+)$|^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"(?://|#) (\S+)\n")
_PORT = re.compile(r"\b1080\b")
_URL = re.compile(r"\b(http|https|git|rsync)://example\.com(?=[/\"])")
_SERVICE = re.compile(r"\bexample\.com(:| |\", )(80|443)\b")
#: How each language is run; the file of a recipe comes behind it.
_INTERPRETERS = {
    "sh": ["sh", "-eu"],
    "bash": ["bash", "-eu"],
    "fish": ["fish", "--no-config"],
    "python": [sys.executable],
    "js": ["node"],
}

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Recipe:
    """Hold one block to run, and the files that stand before it below the same heading."""

    heading: str
    number: int
    language: str
    text: str
    files: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.heading} {self.number}"


def read_recipes() -> dict[str, list[Recipe]]:
    """Return the recipes below each heading of the third level that has any blocks."""
    recipes: dict[str, list[Recipe]] = {}
    heading, files = "", list[tuple[str, str]]()
    for title, language, text in _PART.findall(DOCUMENT.read_text(encoding="utf-8")):
        if title:
            heading, files = title, []
            continue
        name = _FILE_NAME.match(text)
        below = recipes.setdefault(heading, [])
        if not language and name:
            files.append((PurePath(name[1]).name, text))
        else:
            below.append(Recipe(heading, len(below) + 1, language, text, tuple(files)))
    return recipes


RECIPES = read_recipes()


def recipes_of(*headings: str) -> list[Recipe]:
    """Return the recipes below `headings`, for a test that tries each of them."""
    return [recipe for heading in headings for recipe in RECIPES[heading]]


class Kitchen:
    """Own an empty folder in which recipes are tried against one proxy and one origin.

    ``ports`` says where the origin has what is not the web: ``git``, ``rsync`` and ``ssh``.
    """

    def __init__(self, folder: Path, proxy: str, origin: Origin, ports: dict[str, int]) -> None:
        self.folder = folder
        self.origin = origin
        self.proxy_port = proxy.rpartition(":")[2]
        self.ports = {"http": origin.http.port, "https": origin.https.port, **ports}
        self.table = folder / "table"
        self.table.mkdir()
        self._programs = folder / "programs"
        self._programs.mkdir()
        self.authority = folder / "ca.pem"
        origin.ca.cert_pem.write_to_path(self.authority)
        (folder / "wgetrc").write_text(f"ca_certificate = {self.authority}\n")
        self.environment = self._plain_environment()

    def _plain_environment(self) -> dict[str, str]:
        """Return what trusts the origin's authority, and takes nothing else from this machine."""
        kept = {k: v for k, v in without_proxies().items() if not k.startswith(("PIP_", "GIT_"))}
        path = [self._programs, Path(sys.executable).parent, kept["PATH"], "/usr/sbin", "/sbin"]
        trusting = (
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "NODE_EXTRA_CA_CERTS",
            "PIP_CERT",
            "REQUESTS_CA_BUNDLE",
            "SSL_CERT_FILE",
        )
        return {
            **kept,
            **dict.fromkeys(trusting, str(self.authority)),
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(self.folder),
            "WGETRC": str(self.folder / "wgetrc"),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
        }

    def put_before(self, program: str, *arguments: str) -> Path:
        """Make recipes start `program` with these `arguments` before their own."""
        path = self._programs / program
        path.unlink(missing_ok=True)
        real = shutil.which(program, path=self.environment["PATH"])
        assert real is not None
        path.write_text(f'#!/bin/sh\nexec {shlex.join((real, *arguments))} "$@"\n')
        path.chmod(0o700)
        return path

    def prepare(self, text: str) -> str:
        """Return `text` with the lab's proxy and the origin's names in it."""

        def url(found: re.Match[str]) -> str:
            return f"{found[1]}://{NAME}:{self.ports[found[1]]}"

        def service(found: re.Match[str]) -> str:
            scheme = {"80": "http", "443": "https"}[found[2]]
            return f"{NAME}{found[1]}{self.ports[scheme]}"

        text = _SERVICE.sub(service, _URL.sub(url, text))
        return _PORT.sub(self.proxy_port, text.replace("example.com", NAME))

    def lay_out(self, recipe: Recipe) -> None:
        """Write the files of `recipe` to where it is tried."""
        for name, text in recipe.files:
            (self.table / name).write_text(self.prepare(text))

    def try_out(self, recipe: Recipe, given: str = "", language: str | None = None) -> Done:
        """Run `recipe` with `given` as its input; return what came of it."""
        self.lay_out(recipe)
        language = language or recipe.language
        script = self.table / ("recipe.mjs" if language == "js" else f"recipe.{language}")
        script.write_text(self.prepare(recipe.text))
        command = [*_INTERPRETERS[language], str(script)]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.table,
            env=self.environment,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(given, timeout=SECONDS)
            finally:  # and whatever it has started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return Done(command, process.returncode, output, errors)
