import pytest

from instep.errors import Advice, ConfigError, FlowError, InstepError, advice


class _ServerError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ConnectionResetError(), Advice.AGAIN),
        (TimeoutError(), Advice.AGAIN),
        (_ServerError("57P01"), Advice.AGAIN),
        (_ServerError("08006"), Advice.AGAIN),
        (_ServerError("40001"), Advice.AGAIN),
        (_ServerError("28P01"), Advice.NEVER),
        (_ServerError("42P01"), Advice.NEVER),
        (ConfigError("wrong"), Advice.NEVER),
        (ValueError("a programming error"), Advice.NEVER),
    ],
)
def test_only_passing_faults_are_tried_again(fault: Exception, expected: Advice) -> None:
    assert advice(fault) is expected


def test_an_error_says_cause_and_remedy() -> None:
    error = FlowError("LIMIT", "LIMIT counts rows of other keys.", "Use DISTINCT ON.")
    assert str(error) == "LIMIT counts rows of other keys. Use DISTINCT ON."
    assert error.code == "LIMIT"


def every_error(kind: type[InstepError] = InstepError) -> list[type[InstepError]]:
    return [kind, *(deeper for sub in kind.__subclasses__() for deeper in every_error(sub))]


def test_every_error_ends_the_process_with_a_code_of_its_own() -> None:
    assert all(kind.exit_code != 0 for kind in every_error())
