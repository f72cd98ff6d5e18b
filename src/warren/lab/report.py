"""What a lab says while it runs: sentences for people, or one JSON object a line."""

import json
import sys
from typing import Any, TextIO


class Report:
    """Own standard output, as far as the lab writes to it."""

    def __init__(self, *, as_json: bool, output: TextIO | None = None) -> None:
        self._as_json = as_json
        self._output = output or sys.stdout

    def tell(self, event: str, sentence: str, **fields: Any) -> None:
        """Tell of `event`: as `sentence` to people, with `fields` to programs."""
        if self._as_json:
            self._write(json.dumps({"event": event, **fields}))
        else:
            self._write(sentence)

    def remark(self, sentence: str) -> None:
        """Say something that only people need."""
        if not self._as_json:
            self._write(sentence)

    def _write(self, line: str) -> None:
        try:
            self._output.write(line + "\n")
            self._output.flush()
        except OSError:  # whoever read is gone; the lab goes on
            pass
