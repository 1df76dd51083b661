"""The child's side of the supervisor: end when it is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading

from instep_ops.supervisor import SUPERVISED


def is_supervised() -> bool:
    """Whether a supervisor started this process: standard input is its pipe, standard error a log file."""
    return SUPERVISED in os.environ


def end_with_supervisor(grace_s: float = 20.0) -> None:
    """End this process when its supervisor dies: SIGTERM to ourselves, and by force after `grace_s` seconds.

    Does nothing when no supervisor started this process.
    """
    if not is_supervised():
        return
    # Our own children must not believe that our standard input is theirs.
    del os.environ[SUPERVISED]
    threading.Thread(target=_watch, args=(sys.stdin.fileno(), grace_s), name="supervisor-watch", daemon=True).start()


def _watch(pipe: int, grace_s: float) -> None:
    while os.read(pipe, 1):
        continue
    killer = threading.Timer(grace_s, os._exit, args=(70,))
    killer.daemon = True
    killer.start()
    os.kill(os.getpid(), signal.SIGTERM)
