"""What `instep doctor` asks of each server; each raises what is wrong with cause and remedy."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing

import psycopg

from instep.errors import Advice, ConfigError, InstepError, StateError, TargetError, advice
from instep.flowfile import Flow, load_all
from instep.settings import Settings
from instep_connectors.kafka import Publisher, topics
from instep_ops.doctor import Check, failed, fine, skipped
from instep_ops.embedded.state import LEAST_WAL_MB
from instep_schemas.client import RegistryClient

PATIENCE_S = 5.0
OLDEST_STATE = 18
_SMALL_CACHE = 128 * 2**20
"""PostgreSQL's own default."""


def kafka(settings: Settings) -> None:
    """The brokers answer, and give us a transactional producer.

    Raises:
        KafkaFault, ConnectionError: they do not.
    """
    topics(settings.kafka, timeout=PATIENCE_S)
    asyncio.run(_transaction(settings))


async def _transaction(settings: Settings) -> None:
    async with aclosing(Publisher(settings.kafka, f"instep-doctor-{secrets.token_hex(4)}")) as publisher:
        await publisher.start()


def registry(settings: Settings) -> None:
    """The registry answers.

    Raises:
        RegistryError, ConnectionError: it does not.
    """
    client = RegistryClient.of(settings.registry)
    try:
        client.subjects()
    finally:
        client.close()


def state(settings: Settings) -> None:
    """Instep's own database is new enough, UTF-8, and lets us create schemas.

    Raises:
        StateError, ConnectionError: it is not, or does not answer.
    """
    try:
        with psycopg.connect(settings.state.dsn.reveal(), connect_timeout=10, autocommit=True) as conn:
            row = conn.execute(
                "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding'), "
                "has_database_privilege(current_database(), 'CREATE'), current_database()"
            ).fetchone()
    except psycopg.ProgrammingError as exc:
        words = " ".join(str(exc).split())
        raise ConfigError(f"state.dsn is not a connection string: {words}.", "Correct it in instep.toml.") from None
    except psycopg.Error as exc:
        words = " ".join(str(exc).split())
        if exc.sqlstate is None or advice(exc) is Advice.AGAIN:
            raise ConnectionError(f"Instep's own database cannot be reached: {words}") from None
        raise StateError(f"Instep's own database refuses: {words}.", "Correct state.dsn.") from None
    assert row is not None
    version, encoding, may_create, name = row
    if version < OLDEST_STATE:
        raise StateError(f"Instep's own database is PostgreSQL {version}.", f"It needs {OLDEST_STATE} or newer.")
    if encoding != "UTF8":
        raise StateError(f"The database {name} is encoded in {encoding}.", "Create it with ENCODING 'UTF8'.")
    if not may_create:
        raise StateError(f"The user in state.dsn may not create schemas in {name}.", "GRANT CREATE ON DATABASE … TO …;")


def advised_memory(dsn: str) -> Check | None:
    """Advice, not a fault: the database has outgrown the server's memory, or its log forces checkpoints early."""
    try:
        with psycopg.connect(dsn, connect_timeout=10, autocommit=True) as conn:
            row = conn.execute(
                "SELECT pg_database_size(current_database()), pg_size_bytes(current_setting('shared_buffers')),"
                " pg_size_bytes(current_setting('max_wal_size')), current_setting('shared_buffers'),"
                " current_setting('max_wal_size')"
            ).fetchone()
    except psycopg.OperationalError:
        return None  # gone since it was examined: the next run says so
    assert row is not None
    size, cache, log, cache_text, log_text = row
    least = LEAST_WAL_MB * 2**20
    if size <= cache or (cache > _SMALL_CACHE and log >= least):
        return None
    return Check(
        "state", True, f"its {size // 2**20} MB outgrow shared_buffers ({cache_text}); max_wal_size is {log_text}.",
        f"If changes become slow: a larger shared_buffers, max_wal_size {LEAST_WAL_MB // 1024}GB or more.",
    )  # fmt: skip


async def targets(settings: Settings) -> AsyncIterator[Check]:
    """Each target answers a question about a record that it does not have."""
    flows = load_all(settings.flows_dir)
    for name in settings.targets:
        flow = next((each for each in flows.values() if each.target == name), None)
        if flow is None:
            yield skipped(f"target {name}", "no flow delivers to it")
            continue
        try:
            await _read_nothing(settings, flow)
        except (InstepError, ConnectionError, TimeoutError) as exc:
            yield failed(f"target {name}", exc, TargetError)
        else:
            yield fine(f"target {name}")


async def _read_nothing(settings: Settings, flow: Flow) -> None:
    from instep.plugins import sink_factory

    assert flow.target is not None
    own = settings.targets[flow.target]
    async with aclosing(sink_factory(own.type).open(own, flow)) as sink:
        await sink.read([tuple(f"instep-doctor-{secrets.token_hex(4)}" for _ in flow.key)])
