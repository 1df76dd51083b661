"""Every error a person can meet, as a tree; each says what is wrong and what to do about it.

    InstepError
    ├── ConfigError          the project's files are wrong                          exit 2
    │   └── FlowError        a flow's SELECT or header is refused (has a code)      exit 2
    ├── EnvironmentFault     port in use, folder not writable, download missing     exit 3
    ├── SourceError          the store refuses (rights, wal_level, slot)            exit 4
    ├── KafkaFault           the brokers refuse or are gone for too long            exit 5
    ├── RegistryError        the schema registry refuses                            exit 6
    ├── StateError           Instep's own database                                  exit 7
    ├── TargetError          a CRM refuses as a whole (credentials, quota)          exit 8
    └── VerifyFailed         differences were found                                 exit 1

`advice` is the one place that decides whether an exception is worth another try.
"""

from __future__ import annotations

from enum import StrEnum


class InstepError(Exception):
    """A fault with a cause and a remedy, shown to people as one sentence each, never as a traceback.

    Attributes:
        cause: what is wrong, naming the thing (no secrets, no row values).
        remedy: what to do, with the command or setting.
        exit_code: of the process that ends with it.
    """

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.cause} {self.remedy}".strip()


class VerifyFailed(InstepError):
    """The proof found differences."""

    exit_code = 1


class ConfigError(InstepError):
    """`instep.toml`, a flow file or an option is wrong."""

    exit_code = 2


class FlowError(ConfigError):
    """A flow is refused; `code` is the refusal's code (docs/reference/flows.md)."""

    def __init__(self, code: str, cause: str, remedy: str = "") -> None:
        super().__init__(cause, remedy)
        self.code = code


class EnvironmentFault(InstepError):
    """This machine lacks something: a port, a folder, a download, memory."""

    exit_code = 3


class SourceError(InstepError):
    """The store refuses: credentials, rights, wal_level, publication, slot."""

    exit_code = 4


class KafkaFault(InstepError):
    """Kafka refuses or stays unreachable."""

    exit_code = 5


class RegistryError(InstepError):
    """The schema registry refuses or stays unreachable."""

    exit_code = 6


class StateError(InstepError):
    """Instep's own PostgreSQL refuses or stays unreachable."""

    exit_code = 7


class TargetError(InstepError):
    """A target refuses as a whole: credentials, address, account limit."""

    exit_code = 8


class Advice(StrEnum):
    """What to do with a failure."""

    AGAIN = "again"
    """A passing fault: try again with back-off."""
    NEVER = "never"
    """Trying again cannot help: stop and tell a person."""


def advice(exc: BaseException) -> Advice:
    """Say whether a failure is worth another try.

    Lost connections, time-outs and servers that are starting or shutting down pass by themselves. Anything that a
    person must mend (an `InstepError`, a programming error) does not.
    """
    if isinstance(exc, InstepError):
        return Advice.NEVER
    if isinstance(exc, (ConnectionError, TimeoutError)):
        return Advice.AGAIN
    sqlstate = getattr(exc, "sqlstate", None)
    if isinstance(sqlstate, str):
        # 08 connection, 40 rollback, 53 resources, 55 object in use, 57 operator intervention (starting, shutting down)
        return Advice.AGAIN if sqlstate[:2] in ("08", "40", "53", "55", "57") else Advice.NEVER
    return Advice.AGAIN if getattr(exc, "retriable", False) is True else Advice.NEVER
