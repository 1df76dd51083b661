"""An empty database to try a migration on: embedded and gone afterwards, or a fresh one on a server that was named."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from instep.errors import ConfigError
from instep_connectors.postgres.session import connect
from instep_connectors.postgres.skeleton import Definition

Connection = psycopg.Connection[Any]

APPLICATION: Final = "instep check-ddl"

_PIECE: Final = re.compile(
    r"""(?P<comment> --[^\n]* | /\*.*?\*/ ) | (?P<end>;)
    | [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | (?P<tag>\$(?:[A-Za-z_]\w*)?\$) .*? (?P=tag)
    | \w+ | [^\w;'"$/-]+ | .""",
    re.DOTALL | re.VERBOSE,
)
_NO_ROLE: Final = re.compile(r'role "(.+)" does not exist')
_META: Final = re.compile(r"^\\\w+", re.MULTILINE)


def split(text: str) -> list[str]:
    """The statements of an SQL text, without their semicolons; comments within them stay."""
    found, current, blank = [], "", True
    for piece in _PIECE.finditer(text):
        if piece["end"]:
            found += [] if blank else [current.strip()]
            current, blank = "", True
            continue
        current += piece[0]
        blank = blank and (bool(piece["comment"]) or not piece[0].strip())
    return found + ([] if blank else [current.strip()])


@contextmanager
def scratch(dsn: str | None, given: str = "--scratch", alike: bool = False) -> Iterator[Scratch]:
    """Give an empty database, and take it away afterwards.

    Args:
        dsn: of a server where a database may be created; None: one is started here for the while.
        given: where a person wrote the `dsn`.
        alike: orders text as the database that the `dsn` names.

    Raises:
        ConfigError: the server cannot be reached or refuses.
        EnvironmentFault: the embedded server is not installed or does not start.
    """
    if dsn is not None:
        with _database(dsn, given, alike) as conn:
            yield Scratch(conn, own=False)
        return
    from instep_ops.embedded import Postgres

    with tempfile.TemporaryDirectory(prefix="instep-scratch-") as folder:
        server = Postgres(Path(folder) / "postgres", "scratch", durable=False)
        server.ensure()
        server.start()
        try:
            with closing(connect(server.create_database("scratch"), APPLICATION)) as conn:
                yield Scratch(conn, own=True)
        finally:
            server.stop()


@contextmanager
def _database(dsn: str, given: str, alike: bool) -> Iterator[Connection]:
    name = f"instep_scratch_{secrets.token_hex(4)}"
    try:
        with psycopg.connect(dsn, autocommit=True, application_name=APPLICATION) as server:
            locale = _locale(server) if alike else sql.SQL("")
            make = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'{}")
            server.execute(make.format(sql.Identifier(name), locale))
            try:
                with closing(connect(make_conninfo(dsn, dbname=name), APPLICATION)) as conn:
                    yield conn
            finally:
                server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    except (psycopg.OperationalError, psycopg.ProgrammingError) as exc:
        words = " ".join(str(exc).split())
        raise ConfigError(f"The scratch server cannot be used: {words}.", f"Correct {given}.") from None


def _locale(conn: Connection) -> sql.Composable:
    """Options of CREATE DATABASE for the text order of the database connected to."""
    row = conn.execute("SELECT to_jsonb(d) FROM pg_catalog.pg_database d WHERE datname = current_database()").fetchone()
    found: dict[str, str] = row[0] if row else {}  # columns differ between versions of PostgreSQL
    options = {"LC_COLLATE": found["datcollate"], "LC_CTYPE": found["datctype"]}
    provider = {"i": "icu", "b": "builtin"}.get(found.get("datlocprovider", ""))
    if provider is not None:
        named = found.get("datlocale") or found.get("daticulocale")
        options |= {"LOCALE_PROVIDER": provider, f"{provider}_LOCALE": named or ""}
    return sql.SQL("").join(sql.SQL(f" {option} {{}}").format(sql.Literal(each)) for option, each in options.items())


class Scratch:
    """An empty database.

    Attributes:
        conn: in autocommit mode, `search_path = pg_catalog`.

    Args:
        conn: to it.
        own: the whole server is ours: roles that a script names may be made.
    """

    def __init__(self, conn: Connection, own: bool) -> None:
        self.conn = conn
        self._own = own

    def build(self, definitions: Sequence[Definition]) -> list[str]:
        """Define what another database holds; gives what could not be defined, with the reason.

        They depend on one another: those that fail are tried again as long as another one succeeds.
        """
        self.conn.execute("SET check_function_bodies = off")
        waiting, reasons = list(definitions), {}
        while waiting:
            failed = []
            for each in waiting:
                try:
                    self.conn.execute(each.sql.encode())
                except psycopg.Error as exc:
                    reasons[each] = _words(exc)
                    failed.append(each)
            if len(failed) == len(waiting):
                break
            waiting = failed
        self.conn.execute("SET check_function_bodies = on")
        return [f"{each.kind} {each.name}: {reasons[each]}" for each in waiting]

    def run(self, text: str, origin: str) -> None:
        """Run a script as `psql -1 -f` would, or statement by statement where PostgreSQL wants it so.

        Raises:
            ConfigError: it fails; names the line.
        """
        meta = _META.search(text)
        if meta is not None:
            raise ConfigError(f"{origin} holds a command of psql: {meta[0]}.", "Give plain SQL.")
        self.conn.execute('RESET ALL; SET search_path = "$user", public')
        try:
            self._whole(text)
        except psycopg.errors.ActiveSqlTransaction:  # CREATE INDEX CONCURRENTLY and the like
            self._settle()
            self._one_by_one(text, origin)
        except psycopg.Error as exc:
            raise _failure(exc, text, origin) from None
        finally:
            self._settle()
            self.conn.execute("SET search_path = pg_catalog")

    def _settle(self) -> None:
        self.conn.execute("ROLLBACK" if self.conn.info.transaction_status.name != "IDLE" else "SELECT 1")

    def _whole(self, text: str) -> None:
        while True:
            try:
                self.conn.execute(text.encode())
                return
            except psycopg.errors.UndefinedObject as exc:
                if not self._make_role(exc):
                    raise

    def _make_role(self, exc: psycopg.Error) -> bool:
        found = _NO_ROLE.search(exc.diag.message_primary or "")
        if found is None or not self._own:
            return False
        self._settle()
        self.conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(found[1])))
        return True

    def _one_by_one(self, text: str, origin: str) -> None:
        for statement in split(text):
            try:
                self._whole(statement)
            except psycopg.Error as exc:
                raise _failure(exc, statement, origin) from None


def _words(exc: psycopg.Error) -> str:
    return (exc.diag.message_primary or str(exc)).rstrip(".")


def _failure(exc: psycopg.Error, text: str, origin: str) -> ConfigError:
    place = exc.diag.statement_position
    line = f", line {text[: int(place)].count(chr(10)) + 1}" if place else ""
    hint = exc.diag.message_hint or exc.diag.message_detail or ""
    return ConfigError(f"{origin}{line} fails: {_words(exc)}.", hint)
