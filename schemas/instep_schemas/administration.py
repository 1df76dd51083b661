"""What a person does with a schema registry: look, delete, set levels, export and import. Blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from instep.errors import RegistryError
from instep_schemas.bundle import Bundle, SubjectVersion, version_of
from instep_schemas.client import Answer, RegistryClient, quoted, refusal

EVERYWHERE: Final = ":*:"
"""Prefix that stands for the subjects of every context."""


def _told(before: int, after: int) -> None:
    """Nobody wants to know."""


class RegistryAdmin(RegistryClient):
    """The registry's other calls.

    Every one raises as those of `RegistryClient`: RegistryError when the registry refuses, ConnectionError and
    TimeoutError when no instance answers.
    """

    def everything(self, prefix: str = EVERYWHERE, *, deleted: bool = False) -> list[SubjectVersion]:
        """Every version of the subjects that begin with `prefix`, in the registry's order."""
        query = {"subjectPrefix": prefix, "deleted": str(deleted).lower()}
        answer = self.call("GET", "/schemas", query=query)
        if answer.status != 200:
            raise refusal("The schemas cannot be listed", answer)
        return [version_of(str(raw["subject"]), raw) for raw in answer.body]

    def versions(self, subject: str, *, deleted: bool = False) -> list[SubjectVersion]:
        """The subject's versions, oldest first; empty when there is no such subject."""
        path = f"/subjects/{quoted(subject)}/versions"
        query = {"deleted": str(deleted).lower()}
        answer = self.call("GET", path, query=query)
        if answer.status == 404:
            return []
        if answer.status != 200:
            raise refusal(f"The versions of {subject} cannot be listed", answer)
        return [self._version(subject, f"{path}/{number}", query) for number in answer.body]

    def version(self, subject: str, number: int | None = None, *, deleted: bool = False) -> SubjectVersion:
        """One version; None: the newest."""
        path = f"/subjects/{quoted(subject)}/versions/{'latest' if number is None else number}"
        return self._version(subject, path, {"deleted": str(deleted).lower()})

    def _version(self, subject: str, path: str, query: Mapping[str, str]) -> SubjectVersion:
        answer = self.call("GET", path, query=query)
        if answer.status == 404:
            raise RegistryError(f"{answer.words.rstrip('.')} (code {answer.code}).", "`instep schema ls` lists them.")
        if answer.status != 200:
            raise refusal(f"A version of {subject} cannot be read", answer)
        return version_of(subject, answer.body)

    def resolved(self, version: SubjectVersion) -> str:
        """The version's text with every referenced schema written out."""
        if not version.references:
            return version.schema
        path = f"/subjects/{quoted(version.subject)}/versions/{version.version}"
        answer = self.call("GET", path, query={"format": "resolved", "deleted": "true"})
        if answer.status != 200:
            raise refusal(f"The references of {version.subject} cannot be read", answer)
        return str(answer.body["schema"])

    def config(self, subject: str = "") -> dict[str, Any]:
        """The subject's own configuration (empty text: the global one); empty when it has none."""
        answer = self.call("GET", _scoped("/config", subject))
        if answer.status == 404:
            return {}
        if answer.status != 200:
            raise refusal("The configuration cannot be read", answer)
        return dict(answer.body)

    def level(self, subject: str) -> str:
        """The compatibility level that holds for a subject."""
        own = self.config(subject) or self.config()
        return str(own.get("compatibilityLevel") or self.config().get("compatibilityLevel") or "BACKWARD")

    def configure(self, subject: str, config: Mapping[str, Any]) -> None:
        """Set fields of a subject's configuration (empty text: the global one)."""
        body = {("compatibility" if k == "compatibilityLevel" else k): v for k, v in config.items()}
        self._done(self.call("PUT", _scoped("/config", subject), body=body), f"The configuration of {subject}")

    def mode(self, subject: str = "") -> str | None:
        """The subject's own mode (empty text: the global one); None when it has none."""
        answer = self.call("GET", _scoped("/mode", subject))
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise refusal("The mode cannot be read", answer)
        return str(answer.body["mode"])

    def set_mode(self, subject: str, mode: str | None) -> None:
        """Set a subject's mode by force; None: that of above holds."""
        path = _scoped("/mode", subject)
        if mode is None:
            answer = self.call("DELETE", path)
        else:
            answer = self.call("PUT", path, query={"force": "true"}, body={"mode": mode})
        self._done(answer, f"The mode of {subject}")

    def delete(self, subject: str, number: int | None = None, *, permanent: bool = False) -> list[int]:
        """Delete a version, or all (None); gives which. For good only what is softly deleted already."""
        path = f"/subjects/{quoted(subject)}" + ("" if number is None else f"/versions/{number}")
        answer = self.call("DELETE", path, query={"permanent": str(permanent).lower()})
        if answer.status != 200:
            raise refusal(f"{subject} cannot be deleted", answer)
        return list(answer.body) if isinstance(answer.body, list) else [int(answer.body)]

    def export(self, prefix: str = EVERYWHERE) -> Bundle:
        """All of the registry, or the subjects that begin with `prefix`; global settings go with all of it only."""
        versions = self.everything(prefix, deleted=True)
        scopes = sorted({each.subject for each in versions}) + ([""] if prefix == EVERYWHERE else [])
        configs = {scope: config for scope in scopes if (config := self.config(scope))}
        modes = {scope: mode for scope in scopes if (mode := self.mode(scope)) and mode != "READWRITE"}
        return Bundle(tuple(versions), configs, modes)

    def restore(self, bundle: Bundle, told: Callable[[int, int], None] = _told) -> list[SubjectVersion]:
        """Register what the registry lacks under its own ids and versions; gives what was registered.

        Nothing is written when anything conflicts. Interrupted, it goes on where it was when it is run again.

        Args:
            bundle: an export.
            told: called with how many are done, and of how many.

        Raises:
            RegistryError: the registry holds other schemas under the same ids or versions; or it gave out others.
        """
        held = self.everything(deleted=True)
        conflicts = bundle.conflicts(held)
        if conflicts:
            raise RegistryError(
                f"The registry holds {len(conflicts)} schemas that conflict, first: {conflicts[0]}.",
                "Import into an empty registry, or delete the conflicting subjects for good.",
            )
        missing = bundle.missing(held)
        subjects = sorted({each.subject for each in missing})
        for subject in subjects:
            self.set_mode(subject, "IMPORT")
        for done, version in enumerate(missing):
            self._restore(version)
            told(done + 1, len(missing))
        for version in reversed([each for each in missing if each.deleted]):
            self.delete(version.subject, version.version)
        self._settle(bundle, subjects)
        return missing

    def _restore(self, version: SubjectVersion) -> None:
        body = version.body() | {"id": version.id, "version": version.version}
        answer = self.call("POST", f"/subjects/{quoted(version.subject)}/versions", body=body)
        if answer.status != 200:
            raise refusal(f"{version.subject} v{version.version} is refused", answer)
        given = int(answer.body["id"])
        if given != version.id:
            raise RegistryError(
                f"The registry gave {version.subject} the id {given} instead of {version.id}.",
                "It does not keep ids: use one with mode IMPORT.",
            )

    def _settle(self, bundle: Bundle, subjects: list[str]) -> None:
        """Give back configuration and mode: the mode last, READONLY would refuse the rest."""
        for scope, config in bundle.configs.items():
            self.configure(scope, config)
        for subject in subjects:
            if subject not in bundle.modes:
                self.set_mode(subject, None)
        for scope, mode in bundle.modes.items():
            self.set_mode(scope, mode)

    @staticmethod
    def _done(answer: Answer, what: str) -> None:
        if answer.status != 200:
            raise refusal(f"{what.rstrip()} cannot be changed", answer)


def _scoped(path: str, subject: str) -> str:
    return f"{path}/{quoted(subject)}" if subject else path
