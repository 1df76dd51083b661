"""Confluent's two Python clients behind one face."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from confluent_kafka.schema_registry import AsyncSchemaRegistryClient, SchemaRegistryClient


class Awaited:
    """The asynchronous client, called as if it were the other one: on an event loop in another thread."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._client: Any = AsyncSchemaRegistryClient({"url": url})

    def __getattr__(self, name: str) -> Any:
        return self._awaited(getattr(self._client, name))

    def _awaited(self, method: Any) -> Any:
        if not callable(method):
            return SimpleNamespace(post=self._awaited(method.post))

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.done(method(*args, **kwargs))

        return call

    def done(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Wait for something on the client's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *exc: object) -> None:
        self.done(self._client.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def connected(kind: str, url: str) -> Iterator[SchemaRegistryClient]:
    client: Any = SchemaRegistryClient({"url": url}) if kind == "sync" else Awaited(url)
    with client:
        yield client
