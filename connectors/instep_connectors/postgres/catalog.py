"""Read captured tables from the catalog, and join them with what a RELATION message says.

The catalog may be newer than the WAL that is being decoded. So a column's name, type and modifier and whether it is
part of the identity come from the message; the catalog adds what the message lacks and only where both agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg

from instep.relation import Column, Relation, ReplicaIdentity, Type, TypeKind
from instep_connectors.postgres.pgoutput import KEY_COLUMN, RelationColumn, RelationMessage

Connection = psycopg.Connection[Any]

_TYPES: Final = """
SELECT t.oid::bigint, n.nspname, t.typname, t.typtype::text, t.typnotnull, t.typtypmod,
       CASE WHEN t.typtype = 'd' THEN t.typbasetype
            WHEN e.oid IS NOT NULL THEN e.oid
            WHEN r.rngtypid IS NOT NULL THEN r.rngsubtype
            WHEN m.rngmultitypid IS NOT NULL THEN m.rngtypid
            ELSE 0 END::bigint,
       e.oid IS NOT NULL,
       coalesce((SELECT array_agg(l.enumlabel::text ORDER BY l.enumsortorder)
                 FROM pg_enum l WHERE l.enumtypid = t.oid), '{}')
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
LEFT JOIN pg_range r ON r.rngtypid = t.oid
LEFT JOIN pg_range m ON m.rngmultitypid = t.oid
WHERE t.oid = ANY(%s::oid[])"""

_TABLES: Final = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relreplident::text,
       (SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM pg_index i, unnest(i.indkey[0:i.indnkeyatts-1]) WITH ORDINALITY k(num, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
        WHERE i.indrelid = c.oid AND i.indisprimary),
       (SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM pg_index i, unnest(i.indkey[0:i.indnkeyatts-1]) WITH ORDINALITY k(num, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
        WHERE i.indrelid = c.oid AND i.indisreplident),
       (SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(u.columns) WITH ORDINALITY k(num, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num),
       (SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(f.columns) WITH ORDINALITY k(num, place)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    SELECT i.indkey[0:i.indnkeyatts-1] AS columns FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND NOT i.indisprimary
      AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (SELECT FROM unnest(i.indkey[0:i.indnkeyatts-1]) k JOIN pg_attribute a
                      ON a.attrelid = c.oid AND a.attnum = k WHERE NOT a.attnotnull)
    ORDER BY i.indisreplident DESC, i.indexrelid LIMIT 1) u ON true
LEFT JOIN LATERAL (
    SELECT i.indkey[0:i.indnatts-1] AS columns FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary AND i.indexprs IS NULL
    ORDER BY i.indisclustered DESC, n.relname LIMIT 1) f ON true
WHERE c.oid = ANY(%s::oid[])"""

_COLUMNS: Final = """
SELECT a.attrelid::bigint, a.attname::text, a.atttypid::bigint, a.atttypmod, a.attnotnull,
       pg_get_expr(d.adbin, d.adrelid),
       format_type(a.atttypid, a.atttypmod), a.attgenerated <> ''
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum"""


class Catalog:
    """Reads relations and types; remembers neither tables nor labels, because both change.

    Args:
        conn: to the store.
        primary_first: the Kafka key is the primary key wherever there is one, also where the replica identity is
            another index, and else the first unique index by name, whatever it is (as Debezium has it): also a
            partial one, with columns that may be null and those that it only includes. Deletes may not tell their key.
    """

    def __init__(self, conn: Connection, *, primary_first: bool = False) -> None:
        self._conn = conn
        self._primary_first = primary_first

    def relations(self, columns_of: Mapping[int, Sequence[str] | None]) -> dict[int, Relation]:
        """The tables as they are now, by OID; tables that are gone are left out.

        Args:
            columns_of: per table OID the published columns' names, None for all that are not generated.
        """
        oids = list(columns_of)
        rows = self._conn.execute(_COLUMNS, (oids,)).fetchall()
        types, not_null = self._types({row[2] for row in rows})
        columns: dict[int, list[Column]] = {oid: [] for oid in oids}
        for oid, name, type_oid, modifier, required, default, sql_type, generated in rows:
            wanted = columns_of[oid]
            if generated if wanted is None else name not in wanted:
                continue
            columns[oid].append(
                Column(
                    name, types[type_oid], modifier, required or type_oid in not_null, default,
                    sql_type=sql_type, generated=generated,
                )
            )  # fmt: skip
        tables = self._conn.execute(_TABLES, (oids,)).fetchall()
        return {row[0]: _relation(row, columns[row[0]], self._primary_first) for row in tables}

    def joined(self, message: RelationMessage) -> Relation:
        """The table as the message says it was, completed from the catalog."""
        wanted = [column.name for column in message.columns]
        known = self.relations({message.oid: wanted}).get(message.oid)
        types, not_null = self._types({column.type_oid for column in message.columns})
        texts = self._sql_types(message.columns)
        return join(message, known, types, not_null, texts, primary_first=self._primary_first)

    def _sql_types(self, columns: Sequence[RelationColumn]) -> list[str]:
        rows = self._conn.execute(
            "SELECT format_type(t, m) FROM unnest(%s::oid[], %s::int[]) WITH ORDINALITY u(t, m, n) ORDER BY n",
            ([c.type_oid for c in columns], [c.modifier for c in columns]),
        )
        return [row[0] for row in rows]

    def _types(self, oids: Iterable[int]) -> tuple[dict[int, Type], frozenset[int]]:
        """Types by OID, elements and base types resolved, and which of them are domains that refuse NULL."""
        rows: dict[int, tuple[Any, ...]] = {}
        wanted = set(oids)
        while wanted:
            found = self._conn.execute(_TYPES, (list(wanted),)).fetchall()
            rows.update((row[0], row) for row in found)
            wanted = {row[6] for row in found if row[6]} - rows.keys()
        types = {oid: _type(oid, rows) for oid in rows}
        for oid in oids:  # dropped since: all that is left is the OID, and the value's text
            types.setdefault(oid, Type(oid, "pg_catalog", "unknown"))
        return types, frozenset(oid for oid in rows if _refuses_null(oid, rows))


def _type(oid: int, rows: Mapping[int, tuple[Any, ...]]) -> Type:
    _, schema, name, kind, _, modifier, element, is_array, labels = rows[oid]
    return Type(
        oid, schema, name, TypeKind.ARRAY if is_array else TypeKind(kind), tuple(labels),
        _type(element, rows) if element in rows else None, modifier if kind == "d" else -1,
    )  # fmt: skip


def _refuses_null(oid: int, rows: Mapping[int, tuple[Any, ...]]) -> bool:
    kind, required, base = rows[oid][3], rows[oid][4], rows[oid][6]
    return kind == "d" and (required or (base in rows and _refuses_null(base, rows)))


def _relation(row: tuple[Any, ...], columns: list[Column], primary_first: bool) -> Relation:
    oid, schema, name, identity_code, primary, identity_index, unique, first_unique = row
    identity = ReplicaIdentity(identity_code)
    if identity is ReplicaIdentity.FULL:
        flagged = {column.name for column in columns}
    else:
        flagged = set((primary if identity is ReplicaIdentity.DEFAULT else identity_index) or ())
    if primary_first:
        key, is_primary = tuple(primary or first_unique or ()), bool(primary)
    else:
        key, is_primary = _key(identity, primary, identity_index, unique)
    names = {column.name for column in columns}
    if not names.issuperset(key):  # a column list that leaves the key out
        key, is_primary = (), False
    return Relation(
        oid, schema, name, tuple(replace(column, identity=column.name in flagged) for column in columns),
        key, identity, is_primary,
    )  # fmt: skip


def _key(
    identity: ReplicaIdentity, primary: Sequence[str] | None, index: Sequence[str] | None, unique: Sequence[str] | None
) -> tuple[tuple[str, ...], bool]:
    """The Kafka key's columns, and whether they are the primary key.

    Under REPLICA IDENTITY USING INDEX a delete carries that index's columns only, so they are the key, also where a
    primary key exists: a key that deletes cannot name would leave rows behind.
    """
    if identity is ReplicaIdentity.INDEX and index:
        return tuple(index), primary is not None and set(index) == set(primary)
    if primary:
        return tuple(primary), True
    return tuple(unique or ()), False


def join(
    message: RelationMessage,
    known: Relation | None,
    types: Mapping[int, Type],
    not_null: frozenset[int],
    sql_types: Sequence[str],
    *,
    primary_first: bool = False,
) -> Relation:
    """Complete a RELATION message with what the catalog knows of the same table.

    Args:
        message: the table as of the rows that follow.
        known: the table in the catalog now; None when it is gone.
        types: every type the message names.
        not_null: domains that refuse NULL.
        sql_types: `format_type` of each column, in order.
        primary_first: see `Catalog`.
    """
    now = {column.name: column for column in known.columns} if known else {}
    columns = []
    for sent, sql_type in zip(message.columns, sql_types, strict=True):
        same = now.get(sent.name)
        if same is not None and (same.type.oid, same.modifier) != (sent.type_oid, sent.modifier):
            same = None
        columns.append(
            Column(
                sent.name, types[sent.type_oid], sent.modifier,
                same.not_null if same else sent.type_oid in not_null,
                same.default if same else None,
                bool(sent.flags & KEY_COLUMN), sql_type or "text", same.generated if same else False,
            )
        )  # fmt: skip
    identity = ReplicaIdentity(message.replica_identity)
    key, primary = _joined_key(message, known, identity)
    if primary_first and known is not None and known.key and {c.name for c in columns} >= set(known.key):
        key, primary = known.key, known.primary_key
    return Relation(message.oid, message.schema, message.name, tuple(columns), key, identity, primary)


def _joined_key(
    message: RelationMessage, known: Relation | None, identity: ReplicaIdentity
) -> tuple[tuple[str, ...], bool]:
    flagged = tuple(column.name for column in message.columns if column.flags & KEY_COLUMN)
    names = {column.name for column in message.columns}
    usable = known is not None and names.issuperset(known.key)
    if identity in (ReplicaIdentity.DEFAULT, ReplicaIdentity.INDEX):
        if known is not None and usable and set(known.key) == set(flagged):
            return known.key, known.primary_key  # the catalog knows the key's own order
        return flagged, identity is ReplicaIdentity.DEFAULT and bool(flagged)
    if known is not None and usable:
        return known.key, known.primary_key
    return (), False
