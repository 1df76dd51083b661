"""What the registry refuses, with the HTTP status, code and text that Confluent's clients know."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """One refused request.

    Attributes:
        status: HTTP status.
        code: Confluent's error code; its first three digits are usually the status.
        message: the text in the answer.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {"error_code": self.code, "message": self.message}


def bad_request(message: str) -> Refusal:
    """The body is not what the route expects."""
    return Refusal(400, 400, message)


def no_such_page() -> Refusal:
    """404: the path leads nowhere."""
    return Refusal(404, 404, "HTTP 404 Not Found")


def denied(user: str, role: str, subject: str | None) -> Refusal:
    """40301."""
    return Refusal(403, 40301, f"{user} has not the role {role} for {subject or 'all subjects'}.")


def subject_not_found(subject: str) -> Refusal:
    """40401."""
    return Refusal(404, 40401, f"Subject '{subject}' not found.")


def version_not_found(version: int) -> Refusal:
    """40402."""
    return Refusal(404, 40402, f"Version {version} not found.")


def schema_not_found(schema_id: int | str | None = None) -> Refusal:
    """40403."""
    return Refusal(404, 40403, "Schema not found" if schema_id is None else f"Schema {schema_id} not found")


def subject_soft_deleted(subject: str) -> Refusal:
    """40404."""
    text = f"Subject '{subject}' was soft deleted.Set permanent=true to delete permanently"
    return Refusal(404, 40404, text)


def subject_not_soft_deleted(subject: str) -> Refusal:
    """40405."""
    return Refusal(404, 40405, f"Subject '{subject}' was not deleted first before being permanently deleted")


def version_soft_deleted(subject: str, version: int) -> Refusal:
    """40406."""
    text = f"Subject '{subject}' Version {version} was soft deleted.Set permanent=true to delete permanently"
    return Refusal(404, 40406, text)


def version_not_soft_deleted(subject: str, version: int) -> Refusal:
    """40407."""
    text = f"Subject '{subject}' Version {version} was not deleted first before being permanently deleted"
    return Refusal(404, 40407, text)


def no_subject_config(subject: str) -> Refusal:
    """40408."""
    text = f"Subject '{subject}' does not have subject-level compatibility configured"
    return Refusal(404, 40408, text)


def no_subject_mode(subject: str) -> Refusal:
    """40409."""
    return Refusal(404, 40409, f"Subject '{subject}' does not have subject-level mode configured")


def incompatible(subject: str, details: list[str]) -> Refusal:
    """409; the body's code is 409 as well, as every release that clients test against answers."""
    text = f'Schema being registered is incompatible with an earlier schema for subject "{subject}", details: '
    return Refusal(409, 409, text + f"[{', '.join(details)}]")


def invalid_schema(details: str) -> Refusal:
    """42201."""
    return Refusal(422, 42201, f"Invalid schema: {details}")


def invalid_version(version: str) -> Refusal:
    """42202."""
    text = (
        f"The specified version '{version}' is not a valid version id. "
        'Allowed values are between [1, 2^31-1] and the string "latest"'
    )
    return Refusal(422, 42202, text)


def invalid_level() -> Refusal:
    """42203."""
    text = (
        "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, "
        "forward_transitive, and full_transitive"
    )
    return Refusal(422, 42203, text)


def invalid_mode() -> Refusal:
    """42204."""
    return Refusal(
        422,
        42204,
        "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, IMPORT, and (globally) FORWARD",
    )


def forward_is_global() -> Refusal:
    """42204: FORWARD elsewhere."""
    return Refusal(422, 42204, "Forward mode only supported on global level")


def not_in_mode(subject: str, context: str, mode: str) -> Refusal:
    """42205: the subject is not in the mode that this needs, or is in one that forbids it."""
    return not_permitted(f"Subject {subject} in context :{context}: is {mode} mode")


def not_permitted(message: str) -> Refusal:
    """42205: the mode forbids it."""
    return Refusal(422, 42205, message)


def referenced(subject: str, version: int) -> Refusal:
    """42206."""
    key = f"{{magic=1,keytype=SCHEMA,subject={subject},version={version}}}"
    return Refusal(422, 42206, f"One or more references exist to the schema {key}.")


def id_taken(schema_id: int, context: str) -> Refusal:
    """42205: an id can never be given to another schema."""
    return not_permitted(f"Overwrite new schema with id {schema_id} in context :{context}: is not permitted.")


def invalid_subject(subject: str) -> Refusal:
    """42208."""
    return Refusal(422, 42208, f"The specified subject '{subject}' is not a valid subject.")


def too_large(size: int) -> Refusal:
    """42209."""
    return Refusal(422, 42209, f"The schema is too large: its record has {size} bytes, more than the brokers take.")


def invalid_rule_set(details: str) -> Refusal:
    """42210."""
    return Refusal(422, 42210, f"Invalid rule set: {details}")


def context_not_empty(context: str) -> Refusal:
    """42211."""
    return Refusal(422, 42211, f"The specified context '{context}' is not empty.")


def store_failed(message: str) -> Refusal:
    """50001: the write did not happen."""
    return Refusal(500, 50001, f"Error in the backend data store: {message}")


def store_timeout(message: str) -> Refusal:
    """50002: whether the write happened is not known."""
    return Refusal(500, 50002, f"Operation timed out: {message}")


def forwarding_failed(leader: str) -> Refusal:
    """50003."""
    return Refusal(500, 50003, f"Error while forwarding the request to the leader {leader}")


def leader_unknown() -> Refusal:
    """50004."""
    return Refusal(500, 50004, "Leader not known")
