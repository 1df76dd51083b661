import subprocess
import sys

import pytest

from instep import failpoints


def test_nothing_happens_where_nothing_is_armed() -> None:
    failpoints.hit("anywhere")


def test_a_fault_happens_at_its_hit_and_only_there() -> None:
    failpoints.arm("here=raise@2")
    try:
        failpoints.hit("here")
        with pytest.raises(failpoints.FailpointHit):
            failpoints.hit("here")
        failpoints.hit("here")
    finally:
        failpoints.arm("")


def test_kill_ends_the_process_at_once() -> None:
    code = "from instep import failpoints; failpoints.hit('here'); print('alive')"
    ended = subprocess.run([sys.executable, "-c", code], env={failpoints.VARIABLE: "here=kill"}, capture_output=True)
    assert (ended.returncode, ended.stdout) == (-9, b"")


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown action"):
        failpoints.arm("here=explode")
    failpoints.arm("")
