"""What only PostgreSQL can say of a SELECT: names, types and volatility, from its own parse tree."""

from __future__ import annotations

import re
from typing import Any, Final

import psycopg
from psycopg import Connection, errors

from instep.errors import FlowError
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.catalog import quote
from instep_streams.flows.compile import Plan
from instep_streams.flows.refusals import refuse

_VIEW: Final = quote("instep check")
_FUNCTIONS: Final = re.compile(r":(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)")
_STABLE: Final = frozenset(
    """anytextcat textanycat
    array_to_json array_to_string concat concat_ws convert convert_from convert_to date date_add
    date_cmp_timestamptz date_eq_timestamptz date_ge_timestamptz date_gt_timestamptz date_le_timestamptz
    date_lt_timestamptz date_ne_timestamptz date_part date_subtract date_trunc enum_first enum_last enum_range extract
    format generate_series interval_pl_timestamptz json_agg json_agg_strict json_build_array json_build_object
    json_object_agg json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict json_populate_record
    json_populate_recordset json_to_record json_to_recordset json_to_tsvector jsonb_agg jsonb_agg_strict
    jsonb_build_array jsonb_build_object jsonb_object_agg jsonb_object_agg_strict jsonb_path_exists_tz
    jsonb_path_match_tz jsonb_path_query_array_tz jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record
    jsonb_populate_recordset jsonb_to_record jsonb_to_recordset jsonb_to_tsvector length make_timestamptz money numeric
    overlaps pg_typeof phraseto_tsquery plainto_tsquery quote_literal quote_nullable row_to_json time timestamp
    timestamp_cmp_timestamptz timestamp_eq_timestamptz timestamp_ge_timestamptz timestamp_gt_timestamptz
    timestamp_le_timestamptz timestamp_lt_timestamptz timestamp_ne_timestamptz timestamptz timestamptz_cmp_date
    timestamptz_cmp_timestamp timestamptz_eq_date timestamptz_eq_timestamp timestamptz_ge_date timestamptz_ge_timestamp
    timestamptz_gt_date timestamptz_gt_timestamp timestamptz_le_date timestamptz_le_timestamp timestamptz_lt_date
    timestamptz_lt_timestamp timestamptz_mi_interval timestamptz_ne_date timestamptz_ne_timestamp
    timestamptz_pl_interval timetz timezone to_char to_date to_json to_jsonb to_number to_timestamp to_tsquery
    to_tsvector ts_headline ts_match_tq ts_match_tt websearch_to_tsquery xml""".split()
)
"""Stable functions that depend on session settings alone; those are pinned (`session`)."""

_COLUMNS: Final = """
SELECT a.attname, pg_catalog.format_type(b.oid, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END),
    CASE WHEN b.typcategory = 'A' AND b.typelem <> 0 THEN 'a' ELSE b.typtype::text END,
    pg_catalog.format_type(nullif(b.typelem, 0), CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END)
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
WHERE a.attrelid = '"instep check"'::regclass AND a.attnum > 0
ORDER BY a.attnum"""


def check(conn: Connection[Any], plan: Plan) -> tuple[DocumentColumn, ...]:
    """Let PostgreSQL read the SELECT (the replica's tables must exist) and give its output columns.

    Raises:
        FlowError: SYNTAX, RESOLVE, OUTPUT, VOLATILE, TYPE, as PostgreSQL sees it.
    """
    name = plan.flow.name
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(f"CREATE TEMPORARY VIEW {_VIEW} AS {plan.sql}".encode())
            _refuse_volatile(conn)
            rows = conn.execute(_COLUMNS).fetchall()
    except FlowError as exc:
        raise FlowError(exc.code, f"Flow {name}: {exc.cause}", exc.remedy) from None
    except psycopg.Error as exc:
        found = _refusal(exc)
        if found is None:
            raise
        raise FlowError(found.code, f"Flow {name}: {found.cause}", found.remedy) from None
    columns = tuple(DocumentColumn(*row) for row in rows)
    for each in columns:
        if each.name == "?column?":
            error = refuse("OUTPUT", f"Flow {name}: an output column without a name")
            raise error
    return columns


def _refuse_volatile(conn: Connection[Any]) -> None:
    (tree,) = conn.execute(
        f"SELECT ev_action::text FROM pg_catalog.pg_rewrite WHERE ev_class = '{_VIEW}'::regclass"
    ).fetchone() or ("",)
    if "{SQLVALUEFUNCTION" in tree:
        raise refuse("VOLATILE", "CURRENT_DATE, CURRENT_USER or one like it")
    found = conn.execute(
        "SELECT proname, provolatile::text FROM pg_catalog.pg_proc WHERE oid = ANY(%s::oid[]) AND provolatile <> 'i'"
        " ORDER BY provolatile = 's', proname",
        (sorted(set(_FUNCTIONS.findall(tree))),),
    ).fetchall()
    for name, volatility in found:
        if volatility == "v" or name not in _STABLE:
            raise refuse("VOLATILE", f"{name}()")


def _refusal(exc: psycopg.Error) -> FlowError | None:
    """A flow's own fault, or None for a fault of the server or the connection."""
    state = exc.sqlstate or ""
    message = (exc.diag.message_primary or "").rstrip(".")
    hint = exc.diag.message_hint or ""
    if isinstance(exc, errors.SyntaxError):
        return refuse("SYNTAX", "The SELECT", message, hint)
    if isinstance(exc, (errors.DuplicateColumn, errors.InvalidTableDefinition)):
        return refuse("OUTPUT", "The SELECT", message, hint)
    if isinstance(exc, errors.UndefinedFunction):
        advice = f"{hint} A function of your own is not in the state database: write its body in the SELECT.".strip()
        return refuse("RESOLVE", "The SELECT", message, advice)
    # 42 names, types and rights; 22 and 0A: a constant that cannot be read, something PostgreSQL does not do
    return refuse("RESOLVE", "The SELECT", message, hint) if state[:2] in ("42", "22", "0A") else None
