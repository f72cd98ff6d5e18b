"""Tells people what a process does: the page of its role, or a word for one that is not known."""

from collections.abc import Callable, Mapping
from typing import Any

from warren.status.text.authority import authority_page
from warren.status.text.directory import process_row, title
from warren.status.text.page import Page
from warren.status.text.proxy import proxy_page
from warren.status.text.relay import relay_page
from warren.status.text.told import Told

_PAGES: Mapping[str, Callable[[Told, float], Page]] = {
    "proxy": proxy_page,
    "relay": relay_page,
    "exit": relay_page,
    "authority": authority_page,
}


def describe(document: Mapping[str, Any], *, now: float, width: int) -> str:
    """Return what `document`, the answer of a process, says, as lines for people.

    They are printable ASCII and at most `width` characters long (40 at least). `now` is the time
    in Unix seconds. Whatever the document lacks, or says otherwise than expected, is left out.
    """
    told = Told(document)
    role = told.text("role")
    return _PAGES.get(role, _page_of_a_stranger)(told, now).render(width)


def _page_of_a_stranger(told: Told, now: float) -> Page:
    role = told.text("role")[:40]
    kind = f"a {role}" if role else "a process that does not say what it is"
    return Page(
        title("Process", told),
        f"This is {kind}, of which this version knows nothing: --json shows all that it says.",
        [process_row(told)],
    )
