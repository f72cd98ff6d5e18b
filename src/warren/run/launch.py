"""``warren run``: start the command, the gateway beside it, and wait for the command.

The order is what makes it safe: the command is in its own network before anything is served, and
begins when the gateway is ready.
"""

import os
import signal
import socket
import sys

from warren.addresses import Address
from warren.errors import WarrenError
from warren.programs.variables import EXCEPTIONS, proxy_variables
from warren.run.command import Command, Forbidden, NotStarted, become
from warren.run.proxy_client import check_proxy
from warren.run.sockets import run_in_child
from warren.run.waiter import WATCHED, end_like, wait_for

_READY = b"ready"


def run(words: list[str], proxy: Address, *, with_variables_only: bool, is_verbose: bool) -> int:
    """Run the command `words` in a network out of which only `proxy` leads.

    Ends this process as the command ended, or returns the exit code for one that did not start.
    Where the system forbids such a network it raises Forbidden, or, if `with_variables_only`
    allows that, lets the command have proxy variables only. Raises ConfigError when there is no
    proxy.
    """
    _open_standard_streams()
    check_proxy(proxy)
    kept = {name: value for name, value in os.environ.items() if name not in EXCEPTIONS}
    environment = {**kept, **proxy_variables(proxy)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    command = Command(words, environment)
    try:
        listener = command.enter(mask)
        _start_gateway(command, listener, proxy, is_verbose=is_verbose)
        command.start()
    except Forbidden as error:
        if not with_variables_only:
            raise
        command.bury()
        _say(f"{error.fact}, so the command has proxy variables only")
        return become(words, environment, mask)
    except NotStarted as error:
        _say(str(error))
        return error.code
    finally:
        command.close()
    return end_like(wait_for(command.pid))


def _start_gateway(command: Command, listener: int, proxy: Address, *, is_verbose: bool) -> None:
    """Start the gateway and wait until it is ready; take the descriptor `listener`."""
    inside = os.pidfd_open(command.pid)
    ours, theirs = socket.socketpair()

    def be_gateway() -> None:
        # Here and not above: the waiter has no use for trio, and stays as long as the command.
        from warren.run.gateway import run_gateway
        from warren.run.sockets import SocketMaker

        maker = SocketMaker(inside)
        try:
            run_gateway(
                *(listener, maker, proxy),
                has_ipv6=command.has_ipv6,
                is_verbose=is_verbose,
                on_ready=lambda: theirs.sendall(_READY),
            )
        finally:
            maker.close()

    with ours, theirs:
        run_in_child(be_gateway, keep=(listener, inside, theirs.fileno()), keeps_errors=True)
        theirs.close()
        os.close(inside)
        os.close(listener)
        if ours.recv(len(_READY)) != _READY:
            raise WarrenError("the gateway did not start: see above")


def _open_standard_streams() -> None:
    """Take the numbers of standard streams that are closed, so that nothing of ours gets them.

    The command finds them closed all the same.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def _say(text: str) -> None:
    sys.stderr.write(f"warren: {text}\n")
