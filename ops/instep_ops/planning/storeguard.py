"""The store's own guard: an event trigger that lets no captured table change in a way nobody has judged.

It holds each captured table's columns and key. At the end of a transaction that ran DDL it compares: new columns that
may be null pass (every level allows them); anything else must have been judged by `instep schema check-ddl --allow`,
else the transaction fails, and nothing has happened. It looks at the end because a migration has states in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from instep.errors import SourceError
from instep_ops.planning.scratch import Connection

SCHEMA: Final = "instep_guard"

_SHAPE: Final = """
CREATE FUNCTION {schema}.shape(named text) RETURNS jsonb LANGUAGE sql STABLE SET search_path = pg_catalog AS $shape$
SELECT jsonb_build_object(
  'columns', (SELECT coalesce(jsonb_object_agg(attname,
                jsonb_build_array(format_type(atttypid, atttypmod), attnotnull)), '{{}}')
              FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
  'identity', c.relreplident,
  'key', (SELECT coalesce(jsonb_agg(attname ORDER BY place), '[]')
          FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k (number, place), pg_attribute a
          WHERE i.indrelid = c.oid AND a.attrelid = c.oid AND a.attnum = number
            AND (CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END)))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = named AND c.relkind IN ('r', 'p')
$shape$
"""
"""A table's columns and key; no row when there is no such table."""

_INSTALL: Final = """
CREATE TABLE {schema}.tables (name text PRIMARY KEY, shape jsonb NOT NULL);
COMMENT ON TABLE {schema}.tables IS 'captured tables as Instep knows them';
CREATE TABLE {schema}.allowed (name text, shape jsonb, at timestamptz DEFAULT now(), who text DEFAULT session_user);
COMMENT ON TABLE {schema}.allowed IS 'what a judged migration makes of a table; shape null: it is dropped';
CREATE TABLE {schema}.touched (at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION {schema}.touch() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $touch$
BEGIN
  IF NOT EXISTS (SELECT FROM {schema}.touched) THEN INSERT INTO {schema}.touched DEFAULT VALUES; END IF;
END $touch$;
CREATE FUNCTION {schema}.judge() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $judge$
DECLARE
  held record;
  now jsonb;
BEGIN
  DELETE FROM {schema}.touched;
  FOR held IN SELECT name, shape FROM {schema}.tables ORDER BY name LOOP
    now := {schema}.shape(held.name);
    CONTINUE WHEN now = held.shape;
    IF now IS NOT NULL AND now - 'columns' = held.shape - 'columns'
       AND (now->'columns') @> (held.shape->'columns')
       AND NOT EXISTS (SELECT FROM jsonb_each(now->'columns') c
                       WHERE NOT (held.shape->'columns') ? c.key AND (c.value->>1)::boolean) THEN
      UPDATE {schema}.tables SET shape = now WHERE name = held.name;
    ELSIF EXISTS (SELECT FROM {schema}.allowed a WHERE a.name = held.name AND a.shape IS NOT DISTINCT FROM now) THEN
      DELETE FROM {schema}.allowed a WHERE a.name = held.name AND a.shape IS NOT DISTINCT FROM now;
      IF now IS NULL THEN DELETE FROM {schema}.tables t WHERE t.name = held.name;
      ELSE UPDATE {schema}.tables SET shape = now WHERE name = held.name; END IF;
    ELSE
      RAISE EXCEPTION 'the captured table % would change in a way that nobody has judged', held.name
        USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'Run: instep schema check-ddl --allow FILE, then this migration again.';
    END IF;
  END LOOP;
  RETURN NULL;
END $judge$;
CREATE CONSTRAINT TRIGGER judge AFTER INSERT ON {schema}.touched DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION {schema}.judge();
CREATE EVENT TRIGGER {schema} ON ddl_command_end EXECUTE FUNCTION {schema}.touch();
"""
_REMOVE: Final = "DROP EVENT TRIGGER IF EXISTS {schema}; DROP SCHEMA IF EXISTS {schema} CASCADE"


def install(conn: Connection, tables: Iterable[str]) -> int:
    """Put the guard over these tables (`schema.table`), as they are now; gives how many. One that is there is replaced.

    Raises:
        SourceError: the account may not make event triggers.
    """
    try:
        with conn.transaction():
            _run(conn, _REMOVE)
            _run(conn, "CREATE SCHEMA {schema}")
            _run(conn, _SHAPE)
            _run(conn, _INSTALL)
            found = conn.execute(
                _named("INSERT INTO {schema}.tables SELECT t, s FROM unnest(%s::text[]) t, {schema}.shape(t) s"
                       " WHERE s IS NOT NULL"),
                [sorted(tables)],
            )  # fmt: skip
            return found.rowcount
    except psycopg.errors.InsufficientPrivilege as exc:
        raise SourceError(
            f"The store's account may not make an event trigger: {exc.diag.message_primary}.",
            "For this command, give the store with an account that may (a superuser, or your provider's like).",
        ) from None


def remove(conn: Connection) -> None:
    """Take the guard away."""
    with conn.transaction():
        _run(conn, _REMOVE)


def installed(conn: Connection) -> bool:
    """Whether the store has the guard."""
    return conn.execute("SELECT to_regclass(%s) IS NOT NULL", [f"{SCHEMA}.tables"]).fetchone() == (True,)


def shapes(conn: Connection, tables: Iterable[str]) -> dict[str, Any]:
    """Columns and key of tables in a scratch database; None for one that is not there."""
    with conn.transaction(force_rollback=True):
        _run(conn, _REMOVE)  # the store's own, which came along with its definitions
        _run(conn, "CREATE SCHEMA {schema}")
        _run(conn, _SHAPE)
        return {
            name: (conn.execute(_named("SELECT {schema}.shape(%s)"), [name]).fetchone() or (None,))[0]
            for name in tables
        }


def allow(conn: Connection, judged: Mapping[str, Any]) -> list[str]:
    """Let tables of the guard become what a migration makes of them; gives those that change.

    Raises:
        SourceError: the store has no guard.
    """
    if not installed(conn):
        raise SourceError("The store has no guard.", "Put it there: instep schema guard.")
    changed = []
    with conn.transaction():
        for name, held in conn.execute(_named("SELECT name, shape FROM {schema}.tables ORDER BY name")).fetchall():
            if name in judged and judged[name] != held:
                changed.append(name)
                shape = None if judged[name] is None else Jsonb(judged[name])
                conn.execute(_named("DELETE FROM {schema}.allowed WHERE name = %s"), [name])
                conn.execute(_named("INSERT INTO {schema}.allowed (name, shape) VALUES (%s, %s)"), [name, shape])
    return changed


def guarded(conn: Connection) -> list[str]:
    """The tables that the guard holds."""
    return [row[0] for row in conn.execute(_named("SELECT name FROM {schema}.tables ORDER BY name")).fetchall()]


def _named(text: str) -> sql.Composed:
    return sql.SQL(text).format(schema=sql.Identifier(SCHEMA))


def _run(conn: Connection, text: str) -> None:
    conn.execute(_named(text))
