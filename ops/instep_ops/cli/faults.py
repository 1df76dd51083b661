"""How a command ends: one sentence with cause and remedy on standard error, and an exit code for scripts.

Exit codes: 0 done, 1 differences found, 2 to 8 the `InstepError` tree (`instep.errors`), 70 a fault of Instep itself,
75 a part does not answer now (try again), 130 interrupted, 141 nobody reads our output any more. A traceback is shown
only with `--debug` or INSTEP_DEBUG=1.
"""

from __future__ import annotations

import os
import select
import sys
import time
import traceback
from pathlib import Path

from instep.errors import InstepError

OWN_FAULT = 70
NO_ANSWER = 75
INTERRUPTED = 130
READER_GONE = 141
DEBUG_VARIABLE = "INSTEP_DEBUG"


def explain(exc: BaseException) -> int:
    """Tell a person why the command ends; gives the exit code."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exception(exc)
    if isinstance(exc, InstepError):
        say(str(exc))
        return exc.exit_code
    if isinstance(exc, KeyboardInterrupt):
        say("Interrupted.")
        return INTERRUPTED
    if isinstance(exc, BrokenPipeError) and _reader_gone():
        return READER_GONE
    if isinstance(exc, (ConnectionError, TimeoutError)) and str(exc):
        say(f"{exc} Is it running? `instep doctor` looks at every part.")
        return NO_ANSWER
    say(f"{_sentence(exc)} {_keep_traceback(exc)}")
    return OWN_FAULT


def _reader_gone() -> bool:
    """Whether what reads our output (`| head`) has left; then nothing more is written, also not at the exit."""
    try:
        out = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    looked = select.poll()
    looked.register(out, select.POLLERR)
    if not any(event & select.POLLERR for _, event in looked.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return True


def say(sentence: str) -> None:
    """Print one error line. `Error: ` in front is what the supervisor looks for in a log."""
    from instep.telemetry import redact

    print(f"Error: {redact(' '.join(sentence.split()))}", file=sys.stderr, flush=True)


def _sentence(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return f"Instep met a fault of its own ({type(exc).__name__}{': ' if text else ''}{text[:300]})."


def _keep_traceback(exc: BaseException) -> str:
    """Write the traceback where a person can send it from: the process's log, or a file of its own."""
    from instep.telemetry import redact
    from instep_ops.supervised import is_supervised

    text = redact("".join(traceback.format_exception(exc)))
    if is_supervised():
        print(text, file=sys.stderr, flush=True)
        return "The log holds the details."
    try:
        file = _crash_file()
        file.write_text(text, encoding="utf-8")
    except OSError:
        return "Run it again with --debug to see the details."
    return f"Details: {file}; please report them."


def _crash_file() -> Path:
    from platformdirs import user_log_path

    folder = user_log_path("instep")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"crash-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
