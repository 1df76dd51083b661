"""Recorded cases: read, and made to run on a PostgreSQL without contrib extensions and libxml."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from instep_schemas.literals import format_hstore

FOLDER = Path(__file__).parent

_TEXT_TYPE = """
CREATE TYPE {0};
CREATE FUNCTION {0}_in(cstring) RETURNS {0} LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION {0}_out({0}) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE {0} (INPUT = {0}_in, OUTPUT = {0}_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);
CREATE CAST ({0} AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (text AS {0}) WITHOUT FUNCTION AS ASSIGNMENT"""

PREPARE = """
SET allow_system_table_mods = on;
UPDATE pg_type SET typinput = 'textin'::regproc, typoutput = 'textout'::regproc WHERE typname = 'xml';
UPDATE pg_cast SET castfunc = 0, castmethod = 'b'
WHERE casttarget = 'xml'::regtype AND castsource IN ('text'::regtype, 'varchar'::regtype);
RESET allow_system_table_mods"""
"""Without libxml the type `xml` exists but takes nothing: as text it does."""

_EXTENSION = re.compile(r"CREATE EXTENSION (?:IF NOT EXISTS )?\"?(citext|hstore|ltree)\"?[^;]*", re.IGNORECASE)
_WRAPPER = re.compile(r"CREATE EXTENSION (?:IF NOT EXISTS )?\"?(postgres_fdw|file_fdw)\"?[^;]*", re.IGNORECASE)
_FUNCTIONS = re.compile(
    r"CREATE EXTENSION (?:IF NOT EXISTS )?\"?(?:pgcrypto|uuid-ossp|pg_trgm|btree_gin|btree_gist|unaccent)\"?[^;]*",
    re.IGNORECASE,
)
_HSTORE = re.compile(r"'((?:[^']|'')*=>(?:[^']|'')*)'")
_PAIR = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^\s=,"]+)\s*=>\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)\s*(?:,|$)')


def names(folder: Path = FOLDER) -> list[str]:
    """The cases of a folder."""
    return sorted(path.stem for path in folder.glob("*.json"))


def load(folder: Path, name: str) -> dict[str, Any]:
    """One case, its statements as the embedded PostgreSQL takes them."""
    case: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    hstore = any("hstore" in str(statement) for statement in case["ddl"])
    for part in ("ddl", "seed", "dml"):
        case[part] = [_adapted(step, hstore) for step in case.get(part, [])]
    return case


def _adapted(step: Any, hstore: bool) -> Any:
    if isinstance(step, list):
        return [_adapted(each, hstore) for each in step]
    if not isinstance(step, str):
        return step
    step = _EXTENSION.sub(lambda found: _TEXT_TYPE.format(found[1].lower()), step)
    step = _WRAPPER.sub(lambda found: f"CREATE FOREIGN DATA WRAPPER {found[1]}", step)
    step = _FUNCTIONS.sub("SELECT", step)
    return _HSTORE.sub(lambda found: f"'{_hstore(found[1])}'", step) if hstore else step


def _hstore(literal: str) -> str:
    """An hstore literal as hstore prints it: the stand-in type keeps texts as they are written."""
    text = literal.replace("''", "'")
    pairs = {_word(key): None if value.upper() == "NULL" else _word(value) for key, value in _PAIR.findall(text)}
    ordered = sorted(pairs.items(), key=lambda pair: (len(pair[0].encode()), pair[0].encode()))
    return format_hstore(dict(ordered)).replace("'", "''")


def _word(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
