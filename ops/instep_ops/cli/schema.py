"""`instep schema …`: the registry's schemas, and the gate for migrations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instep_ops.cli.options import HERE, Json, Project, open_running

if TYPE_CHECKING:
    from instep_ops.planning.subjects import Difference
    from instep_schemas.administration import RegistryAdmin

Subject = Annotated[str, typer.Argument(metavar="SUBJECT", help="As `instep schema ls` lists it.")]
Number = Annotated[int | None, typer.Option("--version", metavar="N", min=1, help="Default: the newest.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="An Avro schema as JSON.")]
Source = Annotated[str | None, typer.Option("--source", help="Whose store; default: the only one.")]
Definitions = Annotated[
    Path | None,
    typer.Option("--schema", metavar="FILE", help="The store's definitions as SQL, instead of reading them."),
]
ScratchServer = Annotated[
    str | None, typer.Option("--scratch", metavar="DSN", envvar="INSTEP_SCRATCH", help="A server to try it on.")
]
Prefix = Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only subjects that begin so.")]


def _admin(project: Path) -> RegistryAdmin:
    from instep_ops.planning.subjects import administer

    return administer(open_running(project))


def ls(
    prefix: Prefix = "",
    deleted: Annotated[bool, typer.Option("--deleted", help="Softly deleted ones too.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """List the subjects with their versions, newest id and compatibility level."""
    from instep_ops.cli.screen import show_json, show_table
    from instep_ops.planning.subjects import listed

    with _admin(project) as admin:
        found = listed(admin, prefix, deleted)
    if as_json:
        show_json(found)
    else:
        rows = [[s["subject"], _spans(s["versions"]), s["id"], s["level"], s["guid"]] for s in found]
        show_table("Subjects", ["subject", "versions", "id", "level", "guid"], rows)


def _spans(numbers: list[int]) -> str:
    whole = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if whole else ", ".join(map(str, numbers))


def show(
    subject: Subject,
    version: Number = None,
    raw: Annotated[bool, typer.Option("--raw", help="Only the schema's text.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Show one version: id, GUID, level and columns."""
    from instep_ops.cli.screen import show_json, show_table
    from instep_ops.planning.subjects import shown

    with _admin(project) as admin:
        found = admin.version(subject, version, deleted=True)
        if raw:
            typer.echo(found.schema)
            return
        told = shown(admin, found)
    if as_json:
        show_json(told)
        return
    typer.echo(f"{subject} v{found.version}, id {found.id}, GUID {found.guid}, level {told['level']}")
    rows = [
        [c["name"], c["type"], "" if c["null"] else "NOT NULL", c["default"], ", ".join(c["tags"])]
        for c in told["columns"]
    ]
    show_table("", ["column", "type", "null", "default", "tags"], rows)


def diff(
    subject: Subject,
    old: Annotated[int | None, typer.Option("--from", metavar="N", min=1, help="Default: the one before.")] = None,
    new: Annotated[int | None, typer.Option("--to", metavar="N", min=1, help="Default: the newest.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Say column by column what changed between two versions, and what no compatibility level sees."""
    from instep_ops.planning.subjects import difference

    with _admin(project) as admin:
        _tell(difference(admin, subject, old, new), as_json)


def _tell(found: Difference, as_json: bool) -> None:
    from instep_ops.cli.screen import show_json

    if as_json:
        show_json(found.to_dict())
    else:
        typer.echo("\n".join(found.lines()))


def register_schema(subject: Subject, file: File, project: Project = HERE, as_json: Json = False) -> None:
    """Register a schema, or find it; gives its version, id and GUID."""
    from instep_ops.cli.screen import show_json
    from instep_ops.planning.subjects import registered

    with _admin(project) as admin:
        found = registered(admin, subject, file)
    told: dict[str, Any] = {"subject": subject, "version": found.version, "id": found.id, "guid": found.guid}
    if as_json:
        show_json(told)
    else:
        typer.echo(f"{subject} v{found.version}, id {found.id}, GUID {found.guid}")


def check(
    subject: Annotated[str | None, typer.Argument(metavar="[SUBJECT]", help="As `instep schema ls` lists it.")] = None,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="An Avro schema as JSON.")] = None,
    lock: Annotated[
        bool, typer.Option("--lock", help="Instead: all that the store and the flows need, against schemas.lock.")
    ] = False,
    source: Source = None,
    schema: Definitions = None,
    scratch: ScratchServer = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Say whether a schema may follow in a subject, and what it would do; registers nothing.

    With --lock: offline, no registry, no Kafka, and with --schema no store. Exit code 0: it may; 1: it is refused, or
    does harm that the level does not see.
    """
    from instep.errors import ConfigError
    from instep_ops.planning.subjects import examined

    if lock:
        _check_lock(project, source, schema, scratch, as_json)
        return
    if subject is None or file is None:
        raise ConfigError("A subject and a file are needed.", "Name both, or say --lock.")
    with _admin(project) as admin:
        found = examined(admin, subject, file)
    _tell(found, as_json)
    if not found.ok:
        raise typer.Exit(1)


def _check_lock(project: Path, source: str | None, schema: Path | None, scratch: str | None, as_json: bool) -> None:
    from instep_ops.cli.screen import show_json
    from instep_ops.planning.asking import ask_lock

    found = ask_lock(project, source, schema, scratch, None)
    ok = all(each.verdict != "refused" for each in found)
    if as_json:
        show_json({"ok": ok, "subjects": [each.to_dict() for each in found]})
    else:
        for each in found:
            typer.echo("; ".join([f"{each.verdict:8} {each.subject}", *each.reasons]))
    if not ok:
        raise typer.Exit(1)


def delete(
    subject: Subject,
    version: Annotated[int | None, typer.Option("--version", metavar="N", min=1, help="Default: all.")] = None,
    permanent: Annotated[
        bool, typer.Option("--permanent", help="For good: records that name its id cannot be read any more.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Needed for --permanent.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Delete a subject or one version: softly (still readable by id), or for good."""
    from instep.errors import ConfigError
    from instep_ops.cli.screen import show_json
    from instep_ops.planning.subjects import delete as remove

    if permanent and not yes:
        raise ConfigError(
            "Records that were written with a schema deleted for good can never be read again.",
            "`instep schema export` keeps a copy; then repeat this with --yes.",
        )
    with _admin(project) as admin:
        gone = remove(admin, subject, version, permanent)
    if as_json:
        show_json({"subject": subject, "deleted": gone, "permanent": permanent})
    else:
        typer.echo(f"Deleted{' for good' if permanent else ''}: {', '.join(f'{subject} v{n}' for n in gone)}")


def export(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: standard output.")] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="Only subjects that begin so.")] = "",
    project: Project = HERE,
) -> None:
    """Write every schema with its id, version, GUID, level and mode, deleted ones included, as JSON."""
    from instep_ops.planning.subjects import export as take

    with _admin(project) as admin:
        bundle = take(admin, file, prefix)
    if file is None:
        typer.echo(bundle.text(), nl=False)
    else:
        typer.echo(f"{len(bundle.versions)} schemas of {len(bundle.subjects())} subjects: {file}")


def import_schemas(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `instep schema export` wrote it.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Bring exported schemas into a registry under the ids, versions and GUIDs they had.

    What is there already stays; nothing is written when an id or version means another schema there.
    """
    from instep_ops.cli.screen import progress_bars, show_json
    from instep_ops.planning.subjects import restore

    with _admin(project) as admin, progress_bars() as bar:
        new = restore(admin, file, lambda done, total: bar("Importing schemas", done / total))
    if as_json:
        show_json({"imported": [{"subject": v.subject, "version": v.version, "id": v.id} for v in new]})
    else:
        typer.echo(f"{len(new)} schemas imported.")


def check_ddl(
    migrations: Annotated[list[Path], typer.Argument(metavar="FILE...", help="SQL, in the order it will run.")],
    source: Source = None,
    schema: Definitions = None,
    scratch: ScratchServer = None,
    level: Annotated[str | None, typer.Option("--level", help="Judge by this level, not by schemas.lock.")] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="NAME[.COLUMN]", help="This danger to a table or flow is meant; repeatable."),
    ] = None,
    allow: Annotated[bool, typer.Option("--allow", help="If it may run, tell the store's guard so.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Try a migration on an empty copy of the store: what it does to topics, consumers and flows, column by column.

    Exit code 0: it may run; 1: something breaks or is in danger; 2: the SQL itself fails.
    """
    from instep_ops.cli.screen import show_json
    from instep_ops.planning.asking import ask

    report, allowed = ask(project, migrations, source, schema, scratch, level, frozenset(accept or ()), allow=allow)
    if as_json:
        show_json(report.to_dict() | ({"allowed": allowed} if allow else {}))
    else:
        typer.echo("\n".join(report.lines()))
        if allowed:
            typer.echo(f"The store's guard lets it change {', '.join(allowed)}.")
    if not report.ok:
        raise typer.Exit(1)


def guard(
    source: Source = None,
    away: Annotated[bool, typer.Option("--remove", help="Take it away.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Let the store itself refuse DDL on captured tables that nobody has judged (an event trigger).

    New columns that may be null pass; for the rest run `instep schema check-ddl --allow FILE` before the migration.
    """
    from instep_ops.cli.screen import show_json
    from instep_ops.planning.asking import guard_store

    count = guard_store(project, source, away)
    if as_json:
        show_json({"tables": count, "installed": not away})
    else:
        typer.echo("The guard is gone." if away else f"The store guards {count} captured tables.")


def key(
    tag: Annotated[str, typer.Argument(metavar="TAG", help="A tag with a rule in `encryption`, with its kek.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a data key for encrypted columns, wrapped by the rule's kek: the dek to write into instep.toml."""
    from instep.errors import ConfigError
    from instep.settings import load
    from instep_ops.cli.screen import show_json
    from instep_schemas.ciphers import new_key

    rule = load(project).encryption.get(tag)
    if rule is None or not rule.kek or rule.algorithm == "plain":
        raise ConfigError(f"encryption.{tag} has no kek.", f'Write [encryption.{tag}] with kek = "env:NAME".')
    dek = new_key(rule.kek.reveal(), rule.algorithm)
    if as_json:
        show_json({"tag": tag, "algorithm": rule.algorithm, "dek": dek})
    else:
        typer.echo(f'dek = "{dek}"')


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="The registry's schemas, and what a migration would do to them.", no_args_is_help=True,
        rich_markup_mode=None,
    )  # fmt: skip
    group.command(epilog="Example: instep schema ls shop. --json")(ls)
    group.command(epilog="Example: instep schema show shop.public.products-value --version 2")(show)
    group.command(epilog="Example: instep schema diff shop.public.products-value --from 1 --to 3")(diff)
    group.command("register", epilog="Example: instep schema register orders-value orders.avsc")(register_schema)
    group.command(epilog="Example: instep schema check orders-value orders.avsc")(check)
    group.command(epilog="Example: instep schema delete orders-value --version 2")(delete)
    group.command(epilog="Example: instep schema export schemas.json")(export)
    group.command("import", epilog="Example: instep schema import schemas.json")(import_schemas)
    group.command("check-ddl", epilog="Example: instep schema check-ddl migrations/0042.sql --schema schema.sql")(
        check_ddl
    )
    group.command(epilog="Example: instep schema key PII")(key)
    group.command(epilog="Example: instep schema guard")(guard)
    app.add_typer(group, name="schema", epilog="Example: instep schema ls")
