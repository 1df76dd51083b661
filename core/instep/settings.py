"""A project's settings: `instep.toml`, read and checked once into frozen objects.

Secrets stand in the file only as references: `env:NAME` or `file:PATH`; `Secret.reveal` resolves them when they are
used, and nothing that prints settings can show them. `embedded` as an address means: run it here, under the supervisor
(`instep_ops.embedded`), which puts the real address into a copy before anything connects.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator

from instep.errors import ConfigError

EMBEDDED = "embedded"
_SOURCE = re.compile(r"[A-Za-z0-9._-]+")


class Secret(str):
    """A reference to a secret (`env:NAME`, `file:PATH`), or, given by the supervisor, the secret itself."""

    def reveal(self) -> str:
        """The secret's text.

        Raises:
            ConfigError: the variable is not set or the file cannot be read.
        """
        if self.startswith("env:"):
            value = os.environ.get(self[4:])
            if value is None:
                raise ConfigError(
                    f"The environment variable {self[4:]} is not set.", "Set it to the secret it stands for."
                )
            return value
        if self.startswith("file:"):
            try:
                return Path(self[5:]).read_text(encoding="utf-8").strip()
            except OSError as exc:
                raise ConfigError(f"The secret file {self[5:]} cannot be read: {exc.strerror}.") from exc
        return str(self)

    def __repr__(self) -> str:
        return f"Secret({self})" if self.startswith(("env:", "file:")) else "Secret(***)"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Accept any text."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


class Model(BaseModel):
    """Frozen; an unknown name is an error, so that a misspelt setting is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceSettings(Model):
    """One captured database."""

    type: Literal["postgres"] = "postgres"
    dsn: Secret = Field(description="libpq connection string or URI of the store; usually `env:NAME`")
    tables: tuple[str, ...] = Field(("public.*",), description="captured tables, `schema.table`, `*` as a wildcard")
    publication: str = Field("instep", description="publication; created when it does not exist")
    slot: str = Field("", description="replication slot; default `instep_<source>`")
    slot_failover: bool = Field(
        False, description="the slot is made to be kept on standbys, too (PostgreSQL 17 and later): see capture.md"
    )
    journal: bool = Field(
        True, description="false: Debezium itself writes the topics `<source>.…`; Instep only reads them"
    )
    workers: int = Field(1, ge=1, le=16, description="processes that share the keys of the flows")
    joined_to: str = Field(
        "", description="another source, whose worker holds these tables, too: its flows may read both; see flows.md"
    )
    as_schema: str = Field(
        "", description="of a joined source: what flows call its schema `public`; default: the source's name"
    )
    partitions: int = Field(4, ge=1, description="partitions of each new data topic")
    batch_changes: int = Field(2_000, ge=1, description="most changes in one Kafka transaction")
    batch_wait_ms: int = Field(2, ge=0, description="how long a batch waits for more changes once it has one")
    heartbeat_s: float = Field(10.0, gt=0, description="an idle slot is moved on this often")
    stream_large: bool = Field(
        False,
        description="large transactions are taken while they run, and put aside here until their commit: the store"
        " keeps nothing of them on its disk; see capture.md",
    )
    spool: Path | None = Field(
        None, description="folder of what `stream_large` puts aside; default: the system's temporary folder"
    )
    snapshot_threads: int = Field(2, ge=1, le=64, description="connections that read the first snapshot at once")
    chunk_rows: int = Field(2_000, ge=1, description="most rows read at once while a table is copied beside the stream")
    schema_ids: Literal["prefix", "header"] = Field(
        "prefix", description="header: data records tell their schemas' GUIDs in headers, as newer Confluent clients do"
    )
    tags: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="tags of columns, by `schema.table.column`, `*` as a wildcard; each needs a rule in `encryption`",
    )
    wal_budget: ByteSize = Field(
        ByteSize(10 << 30),
        description="WAL the store may keep for the slot (`10GiB`) before capture warns loudly; 0: no budget",
    )


class KafkaSettings(Model):
    """The brokers."""

    bootstrap: str = Field(EMBEDDED, description="`host:port,…`, or `embedded`")
    replication: int = Field(1, ge=1, description="replication factor of new topics")
    options: dict[str, str] = Field(
        default_factory=dict,
        description="further librdkafka settings (security.protocol, sasl.…); values may be references",
    )

    def client(self) -> dict[str, Any]:
        """Librdkafka settings every client starts from, references resolved."""
        return {
            "bootstrap.servers": self.bootstrap,
            **{k: Secret(v).reveal() for k, v in self.options.items()},
        }


class EncryptionSettings(Model):
    """What capture does with columns that carry one tag."""

    algorithm: Literal["AES256_GCM", "AES256_SIV", "plain"] = Field(
        "AES256_GCM", description="AES256_SIV: equal values stay equal; plain: they are not encrypted, on purpose"
    )
    kek: Secret = Field(Secret(""), description="the key that wraps the data key, as text; usually `env:NAME`")
    dek: str = Field("", description="the data key, wrapped: `instep schema key` makes one")


class AccountSettings(Model):
    """One account of `instep registry`, beside `registry.user`."""

    password: Secret = Field(Secret(""), description="usually `env:NAME`; empty: by client certificate only")
    roles: dict[str, Literal["none", "read", "write", "admin"]] = Field(
        description="by the beginning of a subject, `*` for all: the longest that fits holds"
    )


class RegistrySettings(Model):
    """The schema registry."""

    url: str = Field(EMBEDDED, description="address of a Confluent-compatible registry, or `embedded`")
    listen: str = Field("127.0.0.1:0", description="where `instep registry` listens; port 0: any free one")
    user: str = Field("", description="basic authentication")
    password: Secret = Field(Secret(""), description="basic authentication; usually `env:NAME`")
    accounts: dict[str, AccountSettings] = Field(
        default_factory=dict, description="further accounts, by user name or the common name of a client's certificate"
    )
    certificate: Path | None = Field(None, description="PEM file with the chain: `instep registry` listens with TLS")
    certificate_key: Path | None = Field(None, description="PEM file with its key, when it is not in the same file")
    client_ca: Path | None = Field(None, description="PEM file: clients may show a certificate issued by these")
    jwks: str = Field("", description="file or address of the keys (JWKS) that sign bearer tokens")
    issuer: str = Field("", description="`iss` that a bearer token must have; empty: any")
    audience: str = Field("", description="`aud` that a bearer token must have; empty: any")
    ca: Path | None = Field(None, description="PEM file: whom Instep's own processes trust when they call the registry")
    incompatible_code: Literal[409, 40901] = Field(
        409, description="`error_code` of an incompatible schema: 40901 as in Confluent's newest release"
    )
    audit: Path | None = Field(None, description="file that gets a JSON line for each write; default: the log")


class StateSettings(Model):
    """Instep's own PostgreSQL: replica, ledger, flow states."""

    dsn: Secret = Field(
        Secret(EMBEDDED),
        description="connection string of PostgreSQL 18 or newer, or `embedded`: its `shared_buffers` are an eighth of"
        " the memory, 64 MB to 1 GB; of one of yours `instep doctor` says when they are small for the replica",
    )


class TargetSettings(Model):
    """One CRM. What a sink of this type needs besides the common names stands beside them in the file."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field(description="a registered sink: tryton, …")
    url: str = Field("", description="base address, or `embedded` (Tryton only)")
    key: Secret = Field(Secret(""), description="API key; usually `env:NAME`")
    calls_per_second: float = Field(0, ge=0, description="the account's call budget; 0: no limit of ours")
    attempts: int = Field(8, ge=1, description="tries of one document before it waits in the dead letters")

    @property
    def options(self) -> dict[str, Any]:
        """The settings that only this type of sink knows."""
        return dict(self.model_extra or {})


class TopicSettings(Model):
    """What a project wants of some of its topics, beyond what Instep needs of them."""

    partitions: int | None = Field(None, ge=1, description="of a new topic")
    replication: int | None = Field(None, ge=1, description="of a new topic; default: kafka.replication")
    config: dict[str, str] = Field(default_factory=dict, description="topic settings, `retention.ms`, …")


Compatibility = Literal[
    "NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"
]


class Settings(Model):
    """The whole of `instep.toml`."""

    name: str = Field(
        "instep", description="the project's name; prefix of consumer groups", pattern=r"^[a-z][a-z0-9_-]*$"
    )
    data: Path | None = Field(None, description="folder of the embedded parts; default: the user's data directory")
    flows: Path = Field(Path("flows"), description="folder of the flow files")
    sources: dict[str, SourceSettings]
    kafka: KafkaSettings = KafkaSettings()
    registry: RegistrySettings = RegistrySettings()
    state: StateSettings = StateSettings()
    encryption: dict[str, EncryptionSettings] = Field(
        default_factory=dict, description="by tag: how capture encrypts the columns with it"
    )
    targets: dict[str, TargetSettings] = Field(default_factory=dict)
    topics: dict[str, TopicSettings] = Field(
        default_factory=dict, description="by name, `*` as a wildcard; later ones win; see `instep plan`"
    )
    compatibility: dict[str, Compatibility] = Field(
        default_factory=dict, description="level by subject, `*` as a wildcard; later ones win; see `instep plan`"
    )
    root: Path = Field(Path("."), exclude=True, description="folder of instep.toml; relative paths start here")

    @field_validator("sources")
    @classmethod
    def _tell_apart(cls, sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        for name in sources:
            if not _SOURCE.fullmatch(name):
                raise ValueError(f"{name!r}: topics begin with it: only letters, digits, `.`, `_` and `-` will do")
            other = next((each for each in sources if name.startswith(f"{each}.")), None)
            if other is not None:
                raise ValueError(f"{name}: its topics would count as those of {other!r}, too; name one otherwise")
        return sources

    @field_validator("sources")
    @classmethod
    def _name_slots(cls, sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        return {n: s if s.slot else s.model_copy(update={"slot": f"instep_{n}"}) for n, s in sources.items()}

    @field_validator("sources")
    @classmethod
    def _join(cls, sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        for name, source in sources.items():
            if (fault := _unjoinable(name, source, sources)) is not None:
                raise ValueError(f"{name}: {fault}")
        return {n: s if s.as_schema else s.model_copy(update={"as_schema": n}) if s.joined_to else s
                for n, s in sources.items()}  # fmt: skip

    def leader(self, source: str) -> str:
        """The source whose worker holds a source's tables: itself, or the one that it is joined to."""
        return self.sources[source].joined_to or source

    @property
    def leaders(self) -> list[str]:
        """The sources that have a worker."""
        return [name for name, source in self.sources.items() if not source.joined_to]

    def joined(self, source: str) -> dict[str, str]:
        """The sources that are joined to one, each with what flows call its schema `public`."""
        return {name: each.as_schema for name, each in self.sources.items() if each.joined_to == source}

    @property
    def data_dir(self) -> Path:
        """Where the embedded parts keep their data."""
        return (self.root / self.data) if self.data else user_data_path("instep") / self.name

    @property
    def flows_dir(self) -> Path:
        """The folder of the flow files."""
        return self.root / self.flows


def _unjoinable(name: str, source: SourceSettings, sources: dict[str, SourceSettings]) -> str | None:
    """Why a source cannot be joined as it says; None when it can, or is not."""
    if not source.joined_to:
        return "as_schema is for a source that is joined to another" if source.as_schema else None
    leader = sources.get(source.joined_to)
    if leader is None or leader is source:
        return f"joined_to: there is no other source {source.joined_to!r}"
    if leader.joined_to:
        return f"joined_to: {source.joined_to} is joined to {leader.joined_to}; join {name} to that one"
    if not (source.journal and leader.journal):
        return "joined_to: sources whose topics have no journal cannot be joined"
    if source.workers > 1:
        return f"workers: the workers are those of {source.joined_to}"
    if (source.as_schema or name) == "instep":
        return "as_schema: the schema instep is Instep's own"
    return None


def load(path: Path) -> Settings:
    """Read `instep.toml` (or the folder that holds it).

    Raises:
        ConfigError: missing, not TOML, or a setting that is unknown, missing or out of range; names the setting.
    """
    file = path / "instep.toml" if path.is_dir() else path
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"There is no {file}.", "Create a project with `instep init DIR`, or name one with --project."
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file} cannot be read: {exc}.") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{file} is not valid TOML: {exc}.") from exc
    return parse(raw, file.parent.resolve(), str(file))


def parse(raw: dict[str, Any], root: Path, origin: str = "instep.toml") -> Settings:
    """Check a parsed project file.

    Raises:
        ConfigError: names the first wrong setting.
    """
    try:
        settings = Settings(**raw, root=root)
    except ValidationError as exc:
        first = exc.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{origin}: {name}: {first['msg']}.", "See docs/reference/settings.md.") from None
    if settings.registry.ca is None:
        return settings
    registry = settings.registry.model_copy(update={"ca": root / settings.registry.ca})
    return settings.model_copy(update={"registry": registry})
