"""Wait for the command as a shell would find it itself: signals, stops, and how it ended.

The command stays in our process group, so the terminal's signals reach it without us, and what
the terminal sends to us with them is dropped. What somebody sends to us alone is passed on. When
the command is stopped by the terminal, so are we, and the shell gets its prompt.
"""

import os
import resource
import signal
from typing import NoReturn

#: What is waited for instead of being suffered, from before the command is forked.
WATCHED = frozenset(
    {
        *(signal.SIGCHLD, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP),
        *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH),
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
    }
)
_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def wait_for(command: int) -> int:
    """Wait for the end of process `command`, one of our children; return its wait status.

    The signals in ``WATCHED`` must be blocked.
    """
    while True:
        info = signal.sigwaitinfo(WATCHED)
        if info.si_signo == signal.SIGCHLD:
            status = _look_after(command)
            if status is not None:
                return status
        elif info.si_code <= 0:  # SI_USER and its like: not the terminal, which is the kernel
            os.kill(command, info.si_signo)


def _look_after(command: int) -> int | None:
    """Stop with the command, or return the status it has ended with."""
    while True:
        pid, status = os.waitpid(command, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if not os.WIFSTOPPED(status):
            return status
        if os.WSTOPSIG(status) in _STOPS:
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(command, signal.SIGCONT)  # we have been continued, perhaps alone


def end_like(status: int) -> NoReturn:
    """End this process as another did whose wait status was `status`, but without a core dump."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
