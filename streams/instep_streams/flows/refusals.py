"""What a flow cannot be, in one place: code, reason and rewrite (docs/reference/flows.md is held against it)."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlglot import exp

from instep.errors import FlowError

_SHOWN = 80


class Refusal(NamedTuple):
    """Why something is refused, and what to write instead."""

    reason: str
    rewrite: str


REFUSALS: Final = {
    "SYNTAX": Refusal(
        "it is not valid SQL", "Correct the SELECT; where `psql` accepts it as it stands, say that part in other words."
    ),
    "SHAPE": Refusal("a flow is exactly one SELECT that reads tables", "Write one SELECT … FROM …, nothing else."),
    "RESOLVE": Refusal("the store has no such column or function", "Use a name that exists."),
    "UNKNOWN_TABLE": Refusal("it is not a captured table", "Capture the table (sources.….tables), or use another."),
    "KEYLESS": Refusal("the table has no primary key, so its rows cannot be followed", "Give the table a primary key."),
    "INHERITED": Refusal(
        "other tables inherit from it, and their rows are captured under their own names",
        "Read the tables that inherit too, with UNION ALL, and leave rows of their own to this one; or partition it.",
    ),
    "STAR": Refusal(
        "a column added to the store would change the documents", "Name the columns instead of writing `*`."
    ),
    "WHOLE_ROW": Refusal("it means the whole row", "Name the columns you need."),
    "OUTPUT": Refusal("every output column needs a name of its own", "Give it a name with AS."),
    "VOLATILE": Refusal(
        "its value changes without a change of a row", "Leave it out, or compare in the target or a view of it."
    ),
    "UNLINKED": Refusal(
        "no equality leads from the key to it, so each of its rows could change every document",
        "Join it with `=` to a column that leads to the key.",
    ),
    "KEY": Refusal("the key must be made of output columns that come from one table", "Name other key columns."),
    "KEY_EXPR": Refusal(
        "the key expression must be immutable",
        "Write it so that no session setting matters, for example `date_trunc('day', t AT TIME ZONE 'UTC')`.",
    ),
    "KEY_NOT_UNIQUE": Refusal(
        "two rows of the SELECT have the same key", "Add columns to the key, or group by the key."
    ),
    "GROUP_KEY": Refusal("the key is not among the GROUP BY expressions", "Add the key columns to GROUP BY."),
    "GLOBAL_AGG": Refusal(
        "an aggregate without GROUP BY makes one row of the whole table", "Group by the key columns."
    ),
    "GROUPING": Refusal("ROLLUP, CUBE and GROUPING SETS mix rows of several keys", "Write one flow per grouping."),
    "WINDOW": Refusal("the window reaches over rows of other keys", "Write PARTITION BY with the key column."),
    "DISTINCT_ON": Refusal("it chooses among rows of several keys", "Begin DISTINCT ON with the key column."),
    "LIMIT": Refusal("it counts rows of other keys", "Use DISTINCT ON (key), or LATERAL (… LIMIT n) for each row."),
    "SETOP": Refusal("EXCEPT and INTERSECT compare whole rows", "Write NOT EXISTS or EXISTS."),
    "RECURSIVE": Refusal("a change can reach keys through any number of steps", "Join the levels you need one by one."),
    "OUTER": Refusal(
        "RIGHT and FULL joins keep rows that have no key", "Write LEFT JOIN with the key's table on the left."
    ),
    "NESTED_JOIN": Refusal("joins in parentheses are not followed", "Write the joins one after the other."),
    "NULLABLE_ROOT": Refusal(
        "the key's table stands on the nullable side of an outer join", "Put the key's table first."
    ),
    "NATURAL": Refusal("NATURAL JOIN changes its meaning when a column is added", "Write ON or USING."),
    "NOT_IN": Refusal(
        "with columns that can be NULL its answer depends on every row of the subquery", "Write (NOT) EXISTS."
    ),
    "ANY_ALL": Refusal("ANY and ALL over a subquery are not followed", "Write EXISTS or NOT EXISTS."),
    "KEY_CHANGED": Refusal(
        "its documents are already published under another key", "Give the flow a new name, or keep the key."
    ),
    "SCAN": Refusal(
        "every batch would read the whole table",
        "Compare columns of one type with `=`; write a derived table that is joined on another column than the key as "
        "LATERAL (SELECT … WHERE column = …).",
    ),
    "TYPE": Refusal(
        "the state database does not have this type",
        "Leave the column out, or make the type in the state database (with its extension) and the replica anew.",
    ),
}


def refuse(code: str, clause: str | exp.Expr, detail: str = "", rewrite: str = "") -> FlowError:
    """The error that names clause, reason and rewrite.

    Args:
        code: one of `REFUSALS`.
        clause: the part of the SELECT at fault, or a sentence's subject.
        detail: a reason more exact than the code's own.
        rewrite: a rewrite more exact than the code's own.
    """
    known = REFUSALS[code]
    return FlowError(code, f"{shown(clause)}: {detail or known.reason}.", rewrite or known.rewrite)


def shown(clause: str | exp.Expr) -> str:
    """A clause in one short line."""
    text = clause if isinstance(clause, str) else clause.sql("postgres")
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
