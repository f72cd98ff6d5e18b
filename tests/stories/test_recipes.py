"""Every recipe of docs/clients.md does what it says, by a name that only exits know.

The recipes for browsers are tried in ``test_browser``.
"""

import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.daemons import Daemon, serve_git, serve_rsync, serve_ssh
from tests.support.elsewhere import try_elsewhere
from tests.support.recipes import RECIPES, ROOT, Kitchen, Recipe, recipes_of
from tests.support.web_origin import NAME, PAGE, Origin
from warren.addresses import Address
from warren.programs import firefox

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

PAGE_TEXT = PAGE.decode()
LETTER = "a letter that came through three relays\n"


def prints_the_page(kitchen: Kitchen, recipe: Recipe, language: str | None = None) -> None:
    before = len(kitchen.origin.requests)

    done = kitchen.try_out(recipe, language=language)

    assert done.stdout.rstrip().endswith(PAGE_TEXT.rstrip()), done.stderr
    assert done.returncode == 0, done.stderr
    assert len(kitchen.origin.requests) == before + 1


# ---- programs for the web


@pytest.mark.needs("curl")
@pytest.mark.parametrize("recipe", recipes_of("curl"), ids=str)
def test_curl(kitchen: Kitchen, recipe: Recipe) -> None:
    # What a proxy behind the exit would be asked for.
    kitchen.origin.files["http://behind.example.net/"] = ("text/html", PAGE)

    prints_the_page(kitchen, recipe)


@pytest.mark.needs("wget")
@pytest.mark.parametrize("recipe", recipes_of("wget"), ids=str)
def test_wget(kitchen: Kitchen, recipe: Recipe) -> None:
    prints_the_page(kitchen, recipe)


@pytest.mark.needs("git", "nc")
@pytest.mark.parametrize("recipe", recipes_of("git"), ids=str)
def test_git(kitchen: Kitchen, daemons: dict[str, Daemon], recipe: Recipe, tmp_path: Path) -> None:
    make_repository(kitchen, tmp_path / "project.git")
    serve_git(daemons["git"], tmp_path)

    done = kitchen.try_out(recipe)

    assert done.returncode == 0, done.stderr
    assert (kitchen.table / "project" / "letter").read_text() == LETTER


def make_repository(kitchen: Kitchen, bare: Path) -> None:
    """Make a repository of one file, and let the origin serve it as files that never change."""
    source = kitchen.folder / "source"
    who = ["-c", "user.name=a", "-c", "user.email=a@origin.example"]
    for command in (
        ["init", "--quiet", str(source)],
        ["-C", str(source), *who, "commit", "--quiet", "--allow-empty", "-m", "nothing yet"],
        ["-C", str(source), "add", "letter"],
        ["-C", str(source), *who, "commit", "--quiet", "-m", "a letter"],
        ["clone", "--quiet", "--bare", str(source), str(bare)],
        ["-C", str(bare), "update-server-info"],
    ):
        if "add" in command:
            (source / "letter").write_text(LETTER)
        subprocess.run(["git", *command], env=kitchen.environment, check=True)
    for file in filter(Path.is_file, bare.rglob("*")):
        name = f"/project.git/{file.relative_to(bare)}"
        kitchen.origin.files[name] = ("application/octet-stream", file.read_bytes())


@pytest.mark.needs("apt-get", "dpkg-deb")
@pytest.mark.parametrize("recipe", recipes_of("apt"), ids=str)
def test_apt(kitchen: Kitchen, recipe: Recipe) -> None:
    serve_packages(kitchen)
    configure_apt(kitchen)
    if recipe.files:
        configure_apt_for_good(kitchen)

    done = kitchen.try_out(recipe)
    configure_apt_for_good(kitchen)
    fetched = subprocess.run(
        ["apt-get", "download", "letter"],
        cwd=kitchen.table,
        env=kitchen.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert all("/apt/Packages" in kitchen.origin.paths(scheme) for scheme in ("http", "https"))
    package = kitchen.table / "letter_1.0_all.deb"
    assert package.read_bytes() == kitchen.origin.files[f"/apt/{package.name}"][1], fetched.stderr


def serve_packages(kitchen: Kitchen) -> None:
    """Let the origin have a repository for apt, with one package in it."""
    tree = kitchen.folder / "letter"
    (tree / "DEBIAN").mkdir(parents=True)
    fields = (
        "Package: letter\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\n"
        "Description: a letter\n"
    )
    (tree / "DEBIAN" / "control").write_text(fields)
    package = kitchen.folder / "letter.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(package)]
    subprocess.run(build, check=True, capture_output=True)
    content = package.read_bytes()
    entry = (
        f"{fields}Filename: apt/letter_1.0_all.deb\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
    ).encode()
    release = f"SHA256:\n {hashlib.sha256(entry).hexdigest()} {len(entry)} Packages\n".encode()
    kitchen.origin.files |= {
        "/apt/Release": ("text/plain", release),
        "/apt/Packages": ("text/plain", entry),
        "/apt/letter_1.0_all.deb": ("application/octet-stream", content),
    }


def configure_apt(kitchen: Kitchen) -> None:
    """Give apt folders of its own, and the origin as its only source."""
    root = kitchen.folder / "apt"
    for folder in ("parts", "state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True)
    (root / "status").touch()
    # One of the two over HTTP, so that both lines of the recipe are in use.
    sources = [kitchen.origin.url("/", scheme) for scheme in ("http", "https")]
    (root / "sources.list").write_text(
        "".join(f"deb [trusted=yes] {url} apt/\n" for url in sources)
    )
    (root / "apt.conf").write_text(
        f'Dir::Etc::parts "{root}/parts";\nDir::Etc::sourcelist "{root}/sources.list";\n'
        'Dir::Etc::sourceparts "-";\n'
        f'Dir::State "{root}/state";\nDir::State::status "{root}/status";\n'
        f'Dir::Cache "{root}/cache";\nDir::Log "{root}";\n'
        f'Acquire::https::CaInfo "{kitchen.authority}";\n'
        'APT::Sandbox::User "";\nAPT::Get::Assume-Yes "true";\nAcquire::Languages "none";\n'
        'Acquire::Retries "0";\n'
    )
    kitchen.environment["APT_CONFIG"] = str(root / "apt.conf")


def configure_apt_for_good(kitchen: Kitchen) -> None:
    """Put the file of the recipe where apt finds it."""
    [(name, text)] = RECIPES["apt"][-1].files
    (kitchen.folder / "apt" / "parts" / name).write_text(kitchen.prepare(text))


@pytest.mark.parametrize("recipe", recipes_of("pip"), ids=str)
def test_pip(kitchen: Kitchen, recipe: Recipe) -> None:
    serve_wheel(kitchen.origin)
    target = kitchen.folder / "installed"
    kitchen.environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_INDEX_URL": kitchen.origin.url("/simple/", "https"),
        "PIP_NO_CACHE_DIR": "1",
        "PIP_TARGET": str(target),
    }

    done = kitchen.try_out(recipe)

    assert done.returncode == 0, done.stderr
    assert (target / "package.py").read_text() == f"LETTER = {LETTER!r}\n"


def serve_wheel(origin: Origin) -> None:
    """Let the origin have an index for pip, with one package in it."""
    about = "package-1.0.dist-info"
    members = {
        "package.py": f"LETTER = {LETTER!r}\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: package\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*members, f"{about}/RECORD"))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in {**members, f"{about}/RECORD": record}.items():
            archive.writestr(name, text)
    wheel = "package-1.0-py3-none-any.whl"
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    index = f'<!doctype html><a href="{wheel}#sha256={digest}">{wheel}</a>'
    origin.files["/simple/package/"] = ("text/html", index.encode())
    origin.files[f"/simple/package/{wheel}"] = ("application/octet-stream", file.getvalue())


# ---- programs for anything else


@pytest.mark.needs("ssh", "sshd", "nc", "proxytunnel")
@pytest.mark.parametrize("recipe", recipes_of("ssh", "proxytunnel"), ids=str)
def test_ssh(kitchen: Kitchen, daemons: dict[str, Daemon], recipe: Recipe) -> None:
    options = serve_ssh(daemons["ssh"], kitchen.folder / "keys", NAME)
    kitchen.put_before("ssh", *options)

    done = kitchen.try_out(recipe, given="echo came as far as $SSH_CONNECTION $((6 * 7))\n")

    assert "came as far as" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("42")
    assert done.returncode == 0


@pytest.mark.needs("nc")
@pytest.mark.parametrize("recipe", recipes_of("nc"), ids=str)
def test_nc(kitchen: Kitchen, recipe: Recipe) -> None:
    prints_the_page(kitchen, recipe)


@pytest.mark.needs("ncat")
@pytest.mark.parametrize("recipe", recipes_of("ncat"), ids=str)
def test_ncat(kitchen: Kitchen, recipe: Recipe) -> None:
    prints_the_page(kitchen, recipe)


@pytest.mark.needs("socat")
@pytest.mark.parametrize("recipe", recipes_of("socat"), ids=str)
def test_socat(kitchen: Kitchen, recipe: Recipe) -> None:
    prints_the_page(kitchen, recipe)


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("recipe", recipes_of("rsync"), ids=str)
def test_rsync(kitchen: Kitchen, daemons: dict[str, Daemon], recipe: Recipe) -> None:
    files = kitchen.folder / "files"
    files.mkdir()
    (files / "letter").write_text(LETTER)
    serve_rsync(daemons["rsync"], kitchen.folder, files)

    done = kitchen.try_out(recipe)

    assert done.returncode == 0, done.stderr
    assert (kitchen.table / "letter").read_text() == LETTER


@pytest.mark.needs("proxychains4", "curl")
@pytest.mark.parametrize("recipe", recipes_of("proxychains4"), ids=str)
def test_proxychains(kitchen: Kitchen, recipe: Recipe) -> None:
    prints_the_page(kitchen, recipe)


@pytest.mark.needs("torsocks", "curl", "ip", "unshare")
def test_torsocks() -> None:
    """It never connects to this machine, so the origin must be elsewhere."""
    recipes = recipes_of("torsocks")

    done = try_elsewhere("torsocks")

    assert done.returncode == 0, done.stderr
    assert done.stdout == PAGE_TEXT * len(recipes), done.stderr


# ---- Python and Node


PYTHON = recipes_of(
    "requests", "httpx", "aiohttp", "aiohttp-socks", "python-socks", "PySocks", "urllib"
)


@pytest.mark.parametrize("recipe", PYTHON, ids=str)
def test_a_python_program(kitchen: Kitchen, recipe: Recipe) -> None:
    prints_the_page(kitchen, recipe)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Return the packages of tests/node, which npm has fetched and verified once."""
    source = ROOT / "tests" / "node"
    lock = (source / "package-lock.json").read_text()
    folder = Path(sys.prefix) / "node"
    stamp = folder / "installed"
    wanted = f"{platform.platform()} {lock}"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        stamp.write_text(wanted)
    return folder / "node_modules"


NODE = recipes_of("socks-proxy-agent", "https-proxy-agent", "undici")


@pytest.mark.needs("node", "npm")
@pytest.mark.parametrize("recipe", NODE, ids=str)
def test_a_node_program(kitchen: Kitchen, recipe: Recipe, node_modules: Path) -> None:
    (kitchen.table / "node_modules").symlink_to(node_modules)

    prints_the_page(kitchen, recipe)


# ---- warren env


@pytest.mark.needs("curl", "bash")
@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("recipe", recipes_of("warren env in sh, bash and zsh"), ids=str)
def test_warren_env_in_a_shell(kitchen: Kitchen, recipe: Recipe, shell: str) -> None:
    prints_the_page(kitchen, recipe, shell)


@pytest.mark.needs("curl", "fish")
@pytest.mark.parametrize("recipe", recipes_of("warren env in fish"), ids=str)
def test_warren_env_in_fish(kitchen: Kitchen, recipe: Recipe) -> None:
    prints_the_page(kitchen, recipe)


@pytest.mark.needs("curl", "nc", "namespaces")
@pytest.mark.parametrize("recipe", recipes_of("warren run"), ids=str)
def test_warren_run(kitchen: Kitchen, recipe: Recipe) -> None:
    prints_the_page(kitchen, recipe)


# ---- the page itself


def test_the_preferences_for_firefox_are_those_that_are_written() -> None:
    [told] = recipes_of("Firefox")

    written = firefox.preferences(Address("127.0.0.1", 1080))

    lines = told.text.splitlines()
    assert set(lines) <= set(written.splitlines())
    assert len(lines) > 10


def test_every_recipe_is_tried() -> None:
    stories = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    calls = re.findall(r"recipes_of\(([^()]*)\)", stories)
    tried = {heading for call in calls for heading in re.findall(r'"([^"]+)"', call)}

    assert set(RECIPES) == tried
    assert all(recipes for recipes in RECIPES.values())
