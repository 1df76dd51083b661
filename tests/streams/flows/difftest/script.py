"""Run a schema file as psql does: statement by statement, COPY with its rows, backslash lines left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import Connection, errors

_COPY: Final = re.compile(r"^(COPY [^;]+ FROM stdin[^;]*;)\n(.*?)^\\\.$", re.MULTILINE | re.DOTALL | re.IGNORECASE)
_PSQL: Final = re.compile(r"^\\.*$", re.MULTILINE)
_PIECE: Final = re.compile(
    r"""--[^\n]*|/\*.*?\*/|(?<!\w)[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|(?P<tag>\$\w*\$).*?(?P=tag)"""
    r"|\bBEGIN\s+ATOMIC\b.*?;\s*END\b|(?P<end>;)",
    re.DOTALL | re.IGNORECASE,
)
_EXTENSION: Final = re.compile(r"\s*(?:--[^\n]*\n\s*)*(?:CREATE|COMMENT\s+ON|ALTER)\s+EXTENSION\b", re.IGNORECASE)
_ROLE: Final = re.compile(r'role "(.+)" does not exist')
_UUIDS: Final = "CREATE FUNCTION public.uuid_generate_v4() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'"


def run_script(conn: Connection[Any], text: str) -> None:
    """Run a schema's statements; extensions that the server does not have are left out, roles made when missing.

    Raises:
        psycopg.Error: a statement fails otherwise.
    """
    at = 0
    for found in _COPY.finditer(text):
        _run_all(conn, text[at : found.start()])
        with conn.cursor().copy(found[1].encode()) as copy:
            copy.write(found[2].encode())
        at = found.end()
    _run_all(conn, text[at:])


def _run_all(conn: Connection[Any], text: str) -> None:
    for statement in split(_PSQL.sub("", text)):
        _run(conn, statement)


def split(text: str) -> Iterator[str]:
    """The statements of a script: a semicolon in quotes, comments and function bodies ends none."""
    start = 0
    for piece in _PIECE.finditer(text):
        if piece["end"]:
            yield text[start : piece.start()]
            start = piece.end()
    if text[start:].strip():
        yield text[start:]


def _run(conn: Connection[Any], statement: str) -> None:
    try:
        conn.execute(statement.encode() or b";")
    except (errors.FeatureNotSupported, errors.UndefinedFile, errors.UndefinedObject) as exc:
        missing = _ROLE.search(exc.diag.message_primary or "")
        if missing is not None and not conn.info.transaction_status:
            conn.execute(psycopg.sql.SQL("CREATE ROLE {}").format(psycopg.sql.Identifier(missing[1])))
            _run(conn, statement)
        elif not _EXTENSION.match(statement):
            raise
        elif "uuid-ossp" in statement and statement.lstrip().upper().startswith("CREATE"):
            conn.execute(_UUIDS)
