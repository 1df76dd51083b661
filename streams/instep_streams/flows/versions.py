"""The state database's own schema `instep`: its version, and the steps from each version to the next.

A step is never changed once it is released: a database stands at a version and takes the steps behind it. Replica
tables are not part of it: they follow the store (`tables`).
"""

from __future__ import annotations

import logging
from typing import Any, Final

from psycopg import Connection

from instep.errors import StateError
from instep_streams.flows.dirty import COLUMNS

STEPS: Final = (
    """
CREATE TABLE IF NOT EXISTS instep.tables (
    id serial PRIMARY KEY, source text NOT NULL, name text NOT NULL UNIQUE, shape jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS instep.progress (
    source text PRIMARY KEY, entry bigint NOT NULL, journal bigint NOT NULL, epoch bigint NOT NULL,
    lsn numeric NOT NULL, seq bigint NOT NULL, committed_us bigint NOT NULL, more boolean NOT NULL,
    batch bigint NOT NULL, settled bigint NOT NULL) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS instep.flows (
    id serial PRIMARY KEY, source text NOT NULL, name text NOT NULL UNIQUE, version text NOT NULL,
    keys jsonb NOT NULL, whole boolean NOT NULL, state text NOT NULL, fault text NOT NULL DEFAULT '',
    emitted bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
""",
    "ALTER TABLE instep.progress ADD COLUMN offsets jsonb NOT NULL DEFAULT '{}'",
    f"""
ALTER TABLE instep.flows ADD COLUMN parts text NOT NULL DEFAULT '';
DO $$
DECLARE n int;
BEGIN
    FOR n IN SELECT id FROM instep.flows LOOP
        EXECUTE format('CREATE TABLE instep.chunks_%1$s {COLUMNS};
            INSERT INTO instep.chunks_%1$s (anchors, keys) SELECT json_build_array(anchor), 1 FROM instep.dirty_%1$s;
            DROP TABLE instep.dirty_%1$s; ALTER TABLE instep.chunks_%1$s RENAME TO dirty_%1$s', n);
    END LOOP;
END $$;
""",
    """
ALTER TABLE instep.progress ADD COLUMN generation bigint NOT NULL DEFAULT 0;
CREATE TABLE instep.layouts (source text, generation bigint, workers int NOT NULL, PRIMARY KEY (source, generation));
""",
    "ALTER TABLE instep.flows ADD COLUMN definition jsonb",
    "ALTER TABLE instep.flows ADD COLUMN adopted boolean NOT NULL DEFAULT true",
    "ALTER TABLE instep.progress ADD COLUMN joined text NOT NULL DEFAULT ''",
    """
ALTER TABLE instep.flows ADD COLUMN released_us bigint NOT NULL DEFAULT 0;
ALTER TABLE instep.flows ADD COLUMN bound bigint NOT NULL DEFAULT 0;
ALTER TABLE instep.flows ADD COLUMN deferred boolean NOT NULL DEFAULT false;
""",
)
"""The step to version 1 is also taken by a database from before versions were kept: it stands there already."""

log = logging.getLogger(__name__)


def set_up(conn: Connection[Any]) -> None:
    """Create the schema `instep`, or bring an older one forward; inside the caller's transaction.

    Raises:
        StateError: a newer Instep has brought it further than this one knows.
    """
    # two workers that start at once would both find the schema missing
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('instep set up'))")
    conn.execute("CREATE SCHEMA IF NOT EXISTS instep; CREATE TABLE IF NOT EXISTS instep.version (version int NOT NULL)")
    row = conn.execute("SELECT version FROM instep.version").fetchone()
    found: int = row[0] if row is not None else 0
    if found > len(STEPS):
        raise StateError(
            f"The state database was written by a newer Instep: its version is {found}, this one knows {len(STEPS)}.",
            "Start that Instep again, or name another database in state.dsn: it is filled from the topics.",
        )
    if found == len(STEPS):
        return
    for step in STEPS[found:]:
        conn.execute(step)
    conn.execute("DELETE FROM instep.version")
    conn.execute("INSERT INTO instep.version VALUES (%s)", (len(STEPS),))
    log.info("the state database is at version %d", len(STEPS))
