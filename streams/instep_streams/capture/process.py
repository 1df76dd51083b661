"""The capture process: one source, sessions until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg

from instep.errors import Advice, advice
from instep.settings import Settings
from instep_connectors.kafka import Fenced
from instep_connectors.postgres.recording import Recorder
from instep_connectors.postgres.replication import PartsFailed
from instep_connectors.postgres.session import store_failure
from instep_streams.capture.guardian import Guardian
from instep_streams.capture.options import Compatible
from instep_streams.capture.session import Session
from instep_streams.capture.task import Task

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0


async def run(
    settings: Settings,
    source: str,
    stop: asyncio.Event,
    compatible: Compatible | None = None,
    record: Path | None = None,
) -> None:
    """Capture one source until `stop` is set; with `compatible` as Debezium would.

    With `record` every replication frame and acknowledgement goes to that file too.

    Passing faults (store, broker or registry away) never end it.

    Raises:
        InstepError: a person must look; nothing is lost, capture goes on from here when started again.
    """
    flag = threading.Event()
    work = asyncio.create_task(asyncio.to_thread(_guarded, settings, source, flag, compatible, record))
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        flag.set()
        waiting.cancel()
    await work


def _guarded(
    settings: Settings, source: str, flag: threading.Event, compatible: Compatible | None, record: Path | None
) -> None:
    with ExitStack() as stack:
        recorder = None if record is None else Recorder(record)
        if recorder is not None:
            stack.callback(recorder.close)
        stack.enter_context(Guardian(settings, source))
        _capture(settings, source, flag, compatible, recorder)


def _capture(
    settings: Settings, source: str, flag: threading.Event, compatible: Compatible | None, recorder: Recorder | None
) -> None:
    pause, told = _FIRST_PAUSE_S, ""

    def ready() -> None:
        nonlocal pause, told
        pause, told = _FIRST_PAUSE_S, ""

    def idle(seconds: float) -> bool:
        return flag.wait(seconds) if seconds else flag.is_set()

    task = Task(settings, source, idle, compatible, recorder)
    while not flag.is_set():
        try:
            Session(task, ready).run()
        except Fenced as exc:
            # The slot lock says that no other capture of this slot lives; the next session takes it again first.
            reason = str(exc)
        except PartsFailed as exc:
            # A catalog changed twice in one transaction, once in a savepoint that was rolled back, can only be read
            # as it was when all of the transaction is known.
            task, reason = replace(task, parts=False), f"{exc}; until the next start it sends whole transactions"
        except Exception as exc:
            failure = store_failure(exc) if isinstance(exc, psycopg.Error) else exc
            if advice(failure) is Advice.NEVER:
                raise failure from exc
            reason = str(failure)
        else:
            continue
        if reason != told:
            log.warning("capture of %s waits: %s", source, reason)
        told = reason
        if flag.wait(pause):
            return
        pause = min(pause * 2, _LONGEST_PAUSE_S)
