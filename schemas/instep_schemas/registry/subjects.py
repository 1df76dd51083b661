"""Subject names with their context: `orders-value`, `:.staging:orders-value` (pure).

The default context `.` is not written: `:.:orders-value` is `orders-value`. `:.staging:` (nothing after the context)
stands for the context itself, where configuration and mode may be set.
"""

from __future__ import annotations

from typing import Final

DEFAULT_CONTEXT: Final = "."
GLOBAL_CONTEXT: Final = ".__GLOBAL"
EVERY_CONTEXT: Final = ":*:"


def split(subject: str) -> tuple[str, str]:
    """Context and bare name."""
    if subject.startswith(":.") and (end := subject.find(":", 1)) > 0:
        return subject[1:end], subject[end + 1 :]
    return DEFAULT_CONTEXT, subject


def join(context: str, name: str) -> str:
    """The one spelling of a subject."""
    return name if context == DEFAULT_CONTEXT else f":{context}:{name}"


def canonical(subject: str, context: str = DEFAULT_CONTEXT) -> str:
    """The one spelling of a subject named in a request; `context` is that of the path, if it had one."""
    if subject.startswith(":."):
        return join(*split(subject))
    return join(context, subject)


def context_of(subject: str) -> str:
    """The context of a subject."""
    return split(subject)[0]


def context_name(text: str) -> str:
    """The one spelling of a context: `.staging` for `.staging`, `:.staging:` and `staging`."""
    bare = text.strip(":")
    return bare if bare.startswith(".") else f".{bare}"


def matches(subject: str, prefix: str) -> bool:
    """Whether a subject begins with `prefix`; `:*:` at its front stands for every context."""
    if prefix.startswith(EVERY_CONTEXT):
        return split(subject)[1].startswith(prefix[len(EVERY_CONTEXT) :])
    if prefix.startswith(":.") and (end := prefix.find(":", 1)) > 0:
        context, name = split(subject)
        return context == prefix[1:end] and name.startswith(prefix[end + 1 :])
    return context_of(subject) == DEFAULT_CONTEXT and subject.startswith(prefix)
