"""The house stands: imports go down only, and the pure floors are pure."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import warren

ROOT = Path(warren.__file__).parent

GROUND = {"errors", "config_errors", "addresses", "identity", "storage", "key_files"}
PURE = {"protocol", "directory"}
DOORS = {
    "__init__", "__main__", "cli", "config", "country_files", "founding", "lab", "listing",
    "node", "outset", "peer", "programs", "repetitions", "run", "service", "serving",
    "status", "workers",
}  # fmt: skip
FLOORS = {
    **dict.fromkeys(GROUND, 0),
    **dict.fromkeys(PURE, 1),
    "network": 2,
    "roles": 3,
    **dict.fromkeys(DOORS, 4),
}
#: What the pure floors may use of the ground: the rest of it touches files.
GROUND_FOR_PURE = {"errors", "config_errors", "addresses", "identity"}
#: The clock, chance and the world outside.
IMPURE = {
    "asyncio", "http", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
    "select", "shutil", "signal", "socket", "ssl", "structlog", "subprocess", "sys", "tempfile",
    "threading", "time", "trio", "urllib",
}  # fmt: skip

MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def room_of(module: str) -> str:
    """Return the part of the house `module` is in: ``protocol`` for protocol/cells.py."""
    return module.partition("/")[0].removesuffix(".py")


def imported_names(module: str) -> Iterator[str]:
    """Yield the full names that `module` imports, wherever the import stands."""
    path = ROOT / module
    package = ["warren", *Path(module).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else package[: len(package) - node.level + 1]
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def own_rooms(module: str) -> set[str]:
    """Return the rooms of Warren that `module` imports from."""
    names = [name.split(".") for name in imported_names(module)]
    return {parts[1] for parts in names if parts[0] == "warren" and len(parts) > 1}


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_on_a_floor(module: str) -> None:
    assert room_of(module) in FLOORS


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    floor = FLOORS[room_of(module)]

    too_high = {room for room in own_rooms(module) if FLOORS.get(room, -1) > floor}

    assert not too_high


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in PURE])
def test_protocol_and_directory_never_import_each_other(module: str) -> None:
    (other,) = PURE - {room_of(module)}

    assert other not in own_rooms(module)


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in PURE])
def test_the_pure_floors_have_no_clock_no_chance_and_no_world(module: str) -> None:
    tops = {name.partition(".")[0] for name in imported_names(module)}

    assert not tops & IMPURE
    assert own_rooms(module) & GROUND <= GROUND_FOR_PURE


@pytest.mark.parametrize("module", MODULES)
def test_public_methods_that_override_nothing_have_a_docstring(module: str) -> None:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    bare_classes = [
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.bases
    ]

    silent = [
        f"{owner.name}.{method.name}"
        for owner in bare_classes
        if not owner.name.startswith("_")
        for method in owner.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        and not method.name.startswith("_")
        and ast.get_docstring(method) is None
    ]

    assert not silent


def test_the_walk_sees_the_house() -> None:
    assert {"errors.py", "protocol/exchange.py", "network/byte_streams.py"} <= set(MODULES)
    assert {"errors", "addresses", "protocol"} <= own_rooms("network/byte_streams.py")
