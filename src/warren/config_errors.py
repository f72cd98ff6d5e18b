"""What is wrong with a configuration file, in the words of its reader.

msgspec says ``Expected `int` <= 5 - at `$.proxy.hops` ``. A user wants to know which key that
is, what stands there, what is expected, and which key was meant by one that does not exist.
"""

import difflib
import re
import types
import typing
from typing import Any

import msgspec

_MOST_SHOWN = 60
_WHERE = re.compile(r"(?P<what>.*) - at `\$(?P<path>.*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z")
_MISSING = re.compile(r"Object missing required field `(.*)`\Z")
_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]*)`(?P<limit>[^,]*)")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list in brackets",
    "object": "a section",
}


def explain(message: str, data: Any, root: type[msgspec.Struct]) -> str:
    """Turn msgspec's `message` about `data`, read as `root`, into one that helps."""
    match = _WHERE.match(message)
    what, path = (match["what"], match["path"]) if match else (message, "")
    name = path.removeprefix(".") or "the file"
    keys = re.findall(r"[^.\[\]]+", path)
    if unknown := _UNKNOWN.match(what):
        return _unknown_key(unknown[1], keys, root)
    if missing := _MISSING.match(what):
        return f"{_section(keys)} needs the key {missing[1]!r}"
    if expected := _EXPECTED.match(what):
        return f"{name} is {_found(data, keys)}, expected {_plain(**expected.groupdict())}"
    if what.startswith("Invalid enum value"):
        options = ", ".join(repr(option) for option in typing.get_args(_type_at(root, keys)))
        return f"{name} is {_found(data, keys)}, expected one of {options}"
    return f"{name}: {what}"  # our own checks say what they found


def shown(value: object) -> str:
    """Return `value` as it would stand in Python, cut when it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _section(keys: list[str]) -> str:
    if keys and keys[-1].isdigit():
        return f"section [[{'.'.join(key for key in keys if not key.isdigit())}]]"
    return f"section [{'.'.join(keys)}]" if keys else "the file"


def _found(data: Any, keys: list[str]) -> str:
    for key in keys:
        data = data[int(key)] if isinstance(data, list) else data[key]
    if isinstance(data, dict):
        return "a section"
    if isinstance(data, bool):
        return "true" if data else "false"
    return shown(data)


def _plain(kinds: str, limit: str) -> str:
    """Say ```int | null` >= 16`` in words: a whole number of at least 16."""
    names = " or ".join(_KINDS.get(kind, kind) for kind in kinds.split(" | ") if kind != "null")
    if "of length" in limit:
        limit = limit.replace("of length ", "") + (" entries" if kinds == "array" else " letters")
    return names + limit.replace(">=", "of at least").replace("<=", "of at most")


def _unknown_key(key: str, keys: list[str], root: type[msgspec.Struct]) -> str:
    known = _fields(_type_at(root, keys))
    said = f"{_section(keys)} has no key {key!r}"
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"{said}: did you mean {near[0]!r}?"
    homes = [name for name in _fields(root) if key in _fields(_type_at(root, [name]))]
    if homes:
        return f"{said}: it belongs in [{homes[0]}]"
    return f"{said}: expected one of {', '.join(known)}"


def _fields(struct: Any) -> list[str]:
    if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
        return []
    return [field.name for field in msgspec.structs.fields(struct)]


def _type_at(struct: Any, keys: list[str]) -> Any:
    """Return the type of the field that `keys` lead to; ``X | None`` counts as X."""
    for key in keys:
        if key.isdigit():  # in ``tuple[X, ...]``
            struct = typing.get_args(struct)[0]
            continue
        struct = typing.get_type_hints(struct)[key]
        if isinstance(struct, types.UnionType):
            struct = typing.get_args(struct)[0]
    return struct
