"""`instep registry`: one instance of the schema registry, until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from confluent_kafka import KafkaException

from instep.errors import ConfigError, EnvironmentFault
from instep.settings import KafkaSettings, Settings
from instep_schemas.registry.api import Api
from instep_schemas.registry.audit import Audit
from instep_schemas.registry.election import Election
from instep_schemas.registry.instance import Instance
from instep_schemas.registry.log import TOPIC, ensure_topic
from instep_schemas.registry.secured import accounts_of, anchored, own_header, tls
from instep_schemas.registry.tokens import Tokens, tokens_of

log = logging.getLogger("instep.registry")

_BACK_OFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_WILDCARDS: Final = ("", "0.0.0.0", "::")
_LOOPBACK: Final = ("127.", "::1")
_DRAIN_S: Final = 5.0


async def run(settings: Settings, stop: asyncio.Event, topic: str = TOPIC) -> None:
    """Serve the registry's API at `registry.listen` until `stop` is set.

    Kafka may be away at the start, and at any time later: reads go on, writes are refused with 50001 until it is back.

    Raises:
        ConfigError: `registry.listen` is no address, or accounts, certificates or the audit file are not right.
        EnvironmentFault: the port is in use.
        RegistryError: the topic `_schemas` cannot hold schemas safely, or two registries have one address.
    """
    own = anchored(settings.registry, settings.root)
    tokens, (serving, calling) = tokens_of(own), tls(own)
    accounts = accounts_of(own, tokens)
    listening = _listen(own.listen)
    url = f"{'http' if serving is None else 'https'}://{_advertised(listening)}"
    if not own.user and not listening.getsockname()[0].startswith(_LOOPBACK):
        log.warning("everybody who reaches %s may change schemas: set registry.user and registry.password", url)
    with listening, closing(_audit(own.audit)) as audit:
        try:
            instance = Instance(settings.kafka, url, topic)
        except KafkaException as exc:
            raise ConfigError(f"kafka.options: {exc.args[0].str()}.") from exc
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=calling)) as session:
                election = Election(instance, session)
                api = Api(instance, election, session, accounts, audit, own_header(own), own.incompatible_code)
                async with _served(api.application(), listening, serving), _keys(tokens):
                    await _work(settings.kafka, instance, election, stop, topic)
        finally:
            await instance.close()


async def _work(kafka: KafkaSettings, instance: Instance, election: Election, stop: asyncio.Event, topic: str) -> None:
    """Everything besides answering; ends when `stop` is set or one of the parts fails."""

    async def lead_or_follow() -> None:
        await _until_topic(kafka, topic)
        instance.start()
        await election.run()

    async def tell() -> None:
        await election.settled.wait()
        log.info("ready %s", instance.url)
        await stop.wait()

    tasks: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(tell()),
        asyncio.ensure_future(lead_or_follow()),
        asyncio.ensure_future(stop.wait()),
        instance.failure,
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_topic(kafka: KafkaSettings, topic: str) -> None:
    """Wait until the topic is there."""
    for failures in range(10**9):
        try:
            await asyncio.to_thread(ensure_topic, kafka, topic)
            return
        except (ConnectionError, TimeoutError) as exc:
            if not failures:
                log.warning("waiting for Kafka at %s: %s", kafka.bootstrap, exc)
            await asyncio.sleep(_BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)])


@asynccontextmanager
async def _served(
    app: web.Application, listening: socket.socket, serving: ssl.SSLContext | None
) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_DRAIN_S)
    await runner.setup()
    try:
        await web.SockSite(runner, listening, ssl_context=serving).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _keys(tokens: Tokens | None) -> AsyncIterator[None]:
    """The keys of bearer tokens are kept up; their issuer is none of ours, and needs another trust than instances."""
    async with aiohttp.ClientSession() as session:
        work = asyncio.create_task(tokens.keep(session)) if tokens is not None else None
        try:
            yield
        finally:
            if work is not None:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)


def _audit(path: Path | None) -> Audit:
    try:
        return Audit(path)
    except OSError as exc:
        raise ConfigError(f"registry.audit: {path} cannot be written: {exc.strerror}.") from exc


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"registry.listen is {address!r}, which is no address.", "Write host:port, 127.0.0.1:8081.")
    host = host.strip("[]")
    try:
        return socket.create_server(
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            remedy = "Stop what listens there, or set registry.listen to another port."
            raise EnvironmentFault(f"The schema registry's address {address} is in use.", remedy) from exc
        raise EnvironmentFault(f"The schema registry cannot listen at {address}: {exc.strerror}.") from exc


def _advertised(listening: socket.socket) -> str:
    """Where the other instances reach this one."""
    host, port = listening.getsockname()[:2]
    if host in _WILDCARDS:
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
