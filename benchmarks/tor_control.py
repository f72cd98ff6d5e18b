"""Just enough of Tor's control protocol to have circuits built, and to see when they are."""

import socket

from benchmarks.processes import ProcessError
from benchmarks.reactor import now


class Controller:
    """Own a connection to the control port of a Tor process; a context manager."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._lines = self._sock.makefile("r", encoding="ascii", errors="replace")
        self._command("AUTHENTICATE")
        self._command("SETEVENTS CIRC")

    def __enter__(self) -> "Controller":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._sock.close()

    def build_circuit(self) -> float:
        """Build a circuit over a path that Tor chooses, and close it; return the seconds."""
        begun = now()
        number = self._command("EXTENDCIRCUIT 0").split()[2]
        while True:
            words = self._line().split()
            if words[:3] != ["650", "CIRC", number]:
                continue
            if words[3] == "BUILT":
                break
            if words[3] in {"FAILED", "CLOSED"}:
                raise ProcessError(f"Tor could not build a circuit: {' '.join(words)}")
        taken = now() - begun
        self._command(f"CLOSECIRCUIT {number}")
        return taken

    def _command(self, text: str) -> str:
        """Say `text`; return the answer, and pass over events that come before it."""
        self._sock.sendall(text.encode("ascii") + b"\r\n")
        while (answer := self._line()).startswith("650"):
            pass
        if not answer.startswith("250"):
            raise ProcessError(f"Tor's control port answered {answer!r} to {text!r}")
        return answer

    def _line(self) -> str:
        line = self._lines.readline()
        if not line:
            raise ProcessError("Tor closed its control port")
        return line.rstrip()
