"""What is wrong with a configuration or network file, in the words of its reader.

msgspec says ``Expected `int` <= 5 - at `$.proxy.hops` ``. A user wants to know which key that
is, what stands there, what is expected, and which key was meant by one that does not exist.
"""

import datetime as dt
import difflib
import re
import sys
import tomllib
import types
import typing
from typing import Any

import msgspec

from warren.errors import ConfigError

_MOST_SHOWN = 60
#: The keys whose values are for nobody who reads an error, which may stand in a log.
_SECRETS = frozenset({"password"})
_SECRET = re.compile("|".join(_SECRETS), re.IGNORECASE)
_WHERE = re.compile(r"(?P<what>.*) - at `\$(?P<path>.*)`\Z", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z")
_MISSING = re.compile(r"Object missing required field `(.*)`\Z")
_PLACE = re.compile(r"(?P<what>.*) \(at line (?P<line>[0-9]+), column [0-9]+\)\Z", re.DOTALL)
#: What tomllib says of a line whose form is right, and what it means.
_TWICE = {"Cannot overwrite": "this key", "Cannot declare": "this section"}
_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]*)`(?P<limit>[^,]*)")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list in brackets",
    "object": "a section",
}


def read_toml(text: str) -> dict[str, Any]:
    """Return what the TOML `text` says; raise ConfigError that names the line that is none."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError("too many brackets within brackets, expected TOML") from None
    except tomllib.TOMLDecodeError as error:
        if text.lstrip().startswith("{"):  # it may hold a key, so nothing of it is shown
            raise ConfigError(
                "the file is JSON, as the files of a state folder are, expected TOML"
            ) from None
        raise ConfigError(_explain_toml(str(error), text.rstrip().splitlines())) from error
    except ValueError:  # Python reads no longer ones, for the time it would take
        most = sys.get_int_max_str_digits()
        raise ConfigError(f"a number of more than {most} digits, expected a smaller one") from None


def _explain_toml(message: str, lines: list[str]) -> str:
    match = _PLACE.match(message)
    number = int(match["line"]) if match else len(lines)
    line = lines[number - 1].strip() if number <= len(lines) else ""
    if secret := _SECRET.search(line):
        line = f"{line[: secret.end()]}..."
    for begin, what in _TWICE.items():
        if message.startswith(begin):
            return f"line {number} is {shown(line)}, and {what} is there already: keep one of them"
    expected = 'KEY = VALUE with text in "quotes", or a [section]'
    end = "" if match else ". The file ends there: a quote or bracket may be left open"
    return f"line {number} is not TOML: found {shown(line)}, expected {expected}{end}"


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
        kinds, limit = expected.groups()
        is_number = bool(limit) and "int" in kinds.split(" | ")
        plain = _whole_number(_type_at(root, keys)) if is_number else _plain(kinds, limit)
        return f"{name} is {_found(data, keys)}, expected {plain}"
    if what == "Integer value out of range":
        return f"{name} is {_found(data, keys)}, expected {_whole_number(_type_at(root, keys))}"
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
    if isinstance(data, dt.date | dt.time):
        return "a date or time"
    if not _SECRETS.isdisjoint(keys):
        return "something else"
    if isinstance(data, bool):
        return "true" if data else "false"
    return shown(data)


def _plain(kinds: str, limit: str) -> str:
    """Say ```str | null` of length >= 1`` in words: text in quotes of at least 1 letters."""
    names = " or ".join(_KINDS.get(kind, kind) for kind in kinds.split(" | ") if kind != "null")
    if "of length" in limit:
        limit = limit.replace("of length ", "") + (" entries" if kinds == "array" else " letters")
    return names + limit.replace(">=", "of at least").replace("<=", "of at most")


def _whole_number(kind: Any) -> str:
    """Say which whole numbers the type `kind` allows: a whole number from 2 to 5."""
    limits = [meta for meta in getattr(kind, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    least = next((meta.ge for meta in limits if meta.ge is not None), None)
    most = next((meta.le for meta in limits if meta.le is not None), None)
    if least is not None and most is not None:
        return f"a whole number from {least} to {most}"
    return f"a whole number of at least {least}" if least is not None else "a smaller whole number"


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
    """Return the type of the field that `keys` lead to, as annotated; ``X | None`` counts as X."""
    for key in keys:
        if typing.get_origin(struct) is typing.Annotated:
            struct = typing.get_args(struct)[0]
        if key.isdigit():  # in ``tuple[X, ...]``
            struct = typing.get_args(struct)[0]
            continue
        struct = typing.get_type_hints(struct, include_extras=True)[key]
        if typing.get_origin(struct) in (typing.Union, types.UnionType):
            struct = typing.get_args(struct)[0]
    return struct
