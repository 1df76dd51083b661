"""Scripts on an empty database: split, run as a whole or piece by piece, failures with their line."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.errors import ConfigError
from instep_ops.planning.scratch import Scratch, scratch, split


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("", []),
        (" ; ;\n", []),
        ("-- only a remark;\n/* and ; one */", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';', \"a;b\";", ["SELECT ';', \"a;b\""]),
        ("SELECT 'it''s;', E'\\';';SELECT 2", ["SELECT 'it''s;', E'\\';'", "SELECT 2"]),
        ("DO $$ BEGIN NULL; END $$; SELECT 2", ["DO $$ BEGIN NULL; END $$", "SELECT 2"]),
        ("DO $f$ SELECT $$;$$; $f$;", ["DO $f$ SELECT $$;$$; $f$"]),
        ("SELECT 1 -- not; here\n, 2; SELECT 3", ["SELECT 1 -- not; here\n, 2", "SELECT 3"]),
        ("SELECT nameE'x'; SELECT $1 - 2 / 3", ["SELECT nameE'x'", "SELECT $1 - 2 / 3"]),
    ],
)
def test_statements(text: str, statements: list[str]) -> None:
    assert split(text) == statements


def databases(postgres: PostgresForTests) -> set[str]:
    with psycopg.connect(postgres.dsn) as conn:
        return {row[0] for row in conn.execute("SELECT datname FROM pg_database")}


def test_a_database_on_a_server_goes_away(postgres: PostgresForTests) -> None:
    before = databases(postgres)
    with pytest.raises(RuntimeError, match="stop"), scratch(postgres.dsn) as place:
        assert len(databases(postgres) - before) == 1
        place.run("CREATE TABLE t (id int)", "x.sql")
        raise RuntimeError("stop")
    assert databases(postgres) == before


@pytest.mark.slow
def test_an_embedded_server_goes_away() -> None:
    with scratch(None) as place:
        pid = place.conn.info.backend_pid
        place.run("CREATE TABLE t (id int); GRANT SELECT ON t TO somebody, other", "x.sql")
        assert place.conn.execute("SELECT count(*) FROM public.t").fetchone() == (0,)
    assert pid and place.conn.closed


@pytest.fixture
def place(postgres: PostgresForTests) -> Iterator[Scratch]:
    with scratch(postgres.dsn) as found:
        yield found


def test_a_script_is_one_transaction(place: Scratch) -> None:
    with pytest.raises(ConfigError, match=r"m\.sql, line 2 fails: relation \"nope\" does not exist"):
        place.run("CREATE TABLE t (id int);\nINSERT INTO nope VALUES (1);", "m.sql")
    assert place.conn.execute("SELECT to_regclass('public.t')").fetchone() == (None,)


def test_statements_that_allow_no_transaction(place: Scratch) -> None:
    place.run("CREATE TABLE t (id int); CREATE INDEX CONCURRENTLY i ON t (id); -- done;\n", "m.sql")
    assert place.conn.execute("SELECT to_regclass('public.i') IS NOT NULL").fetchone() == (True,)


def test_a_script_with_its_own_transaction(place: Scratch) -> None:
    place.run("BEGIN; CREATE TABLE t (id int); COMMIT; CREATE TABLE u (id int)", "m.sql")
    with pytest.raises(ConfigError):
        place.run("BEGIN; CREATE TABLE v (id int); SELECT broken", "m.sql")
    found = place.conn.execute("SELECT to_regclass('public.u') IS NULL, to_regclass('public.v') IS NULL").fetchone()
    assert found == (False, True)


def test_a_script_leaves_the_session_as_it_was(place: Scratch) -> None:
    place.run("CREATE SCHEMA s; SET search_path = s; SET ROLE NONE; CREATE TABLE t (id int)", "m.sql")
    assert place.conn.execute("SHOW search_path").fetchone() == ("pg_catalog",)
    assert place.conn.execute("SELECT to_regclass('s.t') IS NOT NULL").fetchone() == (True,)


@pytest.mark.parametrize(
    ("text", "told"), [("\\set x 1\nSELECT 1", r"command of psql: \\set"), ("SELEC 1", "line 1 fails: syntax error")]
)
def test_what_is_refused(text: str, told: str, place: Scratch) -> None:
    with pytest.raises(ConfigError, match=told):
        place.run(text, "m.sql")


def test_roles_of_a_server_that_is_not_ours_are_not_made(place: Scratch) -> None:
    with pytest.raises(ConfigError, match='role "nobody_here" does not exist'):
        place.run("CREATE TABLE t (id int); GRANT SELECT ON t TO nobody_here", "m.sql")


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="scratch server"), scratch("postgresql://127.0.0.1:1/x"):
        pass
