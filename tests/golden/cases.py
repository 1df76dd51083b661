"""Recorded cases: read, and made to run on a PostgreSQL without contrib extensions and libxml."""

from __future__ import annotations

import json
import re
from collections.abc import Set
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

_PAIRS = """;
CREATE FUNCTION hstore(text, text) RETURNS hstore LANGUAGE sql IMMUTABLE AS
$$ SELECT format('"%s"=>"%s"', $1, $2)::hstore $$"""

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
_DECLARED = re.compile(
    r"<\?xml\s+version=\\?\"1\.0\\?\"(?:\s+encoding=\\?\"utf-8\\?\")?\s*\?>(?:\n|\\n)?", re.IGNORECASE
)
_PAIR = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^\s=,"]+)\s*=>\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)\s*(?:,|$)')


def names(folder: Path = FOLDER) -> list[str]:
    """The cases of a folder."""
    return sorted(path.stem for path in folder.glob("*.json"))


def load(folder: Path, name: str) -> dict[str, Any]:
    """One case, its statements as the embedded PostgreSQL takes them."""
    case: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    used = frozenset(name for name in ("hstore", "xml") if any(name in str(each) for each in case["ddl"]))
    for part in ("ddl", "seed", "dml"):
        case[part] = [_adapted(step, used) for step in case.get(part, [])]
    return case


def _adapted(step: Any, used: Set[str]) -> Any:
    if isinstance(step, list):
        return [_adapted(each, used) for each in step]
    if not isinstance(step, str):
        return step
    step = _EXTENSION.sub(_stand_in, step)
    step = _WRAPPER.sub(lambda found: f"CREATE FOREIGN DATA WRAPPER {found[1]}", step)
    step = _FUNCTIONS.sub("SELECT", step)
    if "xml" in used:  # PostgreSQL does not print a declaration that says nothing new
        step = _DECLARED.sub("", step)
    return _HSTORE.sub(lambda found: f"'{_hstore(found[1])}'", step) if "hstore" in used else step


def _stand_in(found: re.Match[str]) -> str:
    name = found[1].lower()
    return _TEXT_TYPE.format(name) + (_PAIRS if name == "hstore" else "")


def _hstore(literal: str) -> str:
    """An hstore literal as hstore prints it: the stand-in type keeps texts as they are written."""
    text = literal.replace("''", "'")
    pairs = {_word(key): None if value.upper() == "NULL" else _word(value) for key, value in _PAIR.findall(text)}
    ordered = sorted(pairs.items(), key=lambda pair: (len(pair[0].encode()), pair[0].encode()))
    return format_hstore(dict(ordered)).replace("'", "''")


def _word(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
