"""When a block may be read for one value of a column alone: restricting it commutes with all that it does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sqlglot import exp

from instep.errors import FlowError
from instep_streams.flows.blocks import Block, conjuncts, owner
from instep_streams.flows.refusals import refuse

AGGREGATES: Final = frozenset(
    """any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp cume_dist
    dense_rank every json_agg json_agg_strict json_arrayagg json_object_agg json_object_agg_strict
    json_object_agg_unique json_object_agg_unique_strict json_objectagg jsonb_agg jsonb_agg_strict jsonb_object_agg
    jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict max min mode percent_rank
    percentile_cont percentile_disc range_agg range_intersect_agg rank regr_avgx regr_avgy regr_count regr_intercept
    regr_r2 regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance
    xmlagg""".split()
)
"""PostgreSQL 18's aggregates (`pg_proc.prokind = 'a'`); a test compares."""


LOOSE: Final = re.compile(
    r'"?(numeric|real|float4|double precision|float8|interval.*|jsonb|num(multi)?range|bpchar)"?(\[\])*'
)
"""Types whose equal values can have several texts, also by their names in pg_type: those of domains come so."""


def barrier(block: Block, value: exp.Expr) -> FlowError | None:
    """Why the block may not be restricted to rows with one value of an expression, or None when it may."""
    select = block.select
    for clause in ("limit", "offset"):
        if select.args.get(clause):
            return refuse("LIMIT", select.args[clause])
    same = _equal_texts(block, value)
    return _grouping(block, value, same) or _windows(block, value, same) or _distinct_on(block, value, same)


def is_aggregate(node: exp.Expr) -> bool:
    """A call of an aggregate function (not as a window function)."""
    if isinstance(node, exp.WithinGroup):
        return not _is_windowed(node)
    named = isinstance(node, exp.Anonymous) and node.name.lower() in AGGREGATES
    return (named or isinstance(node, exp.AggFunc)) and not _is_windowed(node)


def _is_windowed(node: exp.Expr) -> bool:
    holder = node.parent
    while isinstance(holder, (exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls)):
        holder = holder.parent
    return isinstance(holder, exp.Window)


def _grouping(block: Block, value: exp.Expr, same: set[str]) -> FlowError | None:
    select = block.select
    group = select.args.get("group")
    if group is None:
        calls = (node for node in select.walk() if is_aggregate(node) and owner(node) is select)
        found = next(calls, None)
        if found is None and select.args.get("having") is not None:
            found = select.args["having"]
        return refuse("GLOBAL_AGG", found) if found is not None else None
    mixed = next(group.find_all(exp.Rollup, exp.Cube, exp.GroupingSets), None)
    if mixed is not None or group.args.get("all"):
        return refuse("GROUPING", mixed or group)
    grouped = {_text(each) for each in _ordinals(group.expressions, select)}
    if same & grouped or _made_of(value, grouped, block) or _by_primary_key(block, value, grouped):
        return None
    return refuse("GROUP_KEY", group, f"the key {value.sql('postgres')} is not among the GROUP BY expressions")


def _ordinals(items: list[exp.Expr], select: exp.Select) -> Iterator[exp.Expr]:
    for item in items:
        if isinstance(item, exp.Literal) and item.is_int:
            yield select.expressions[int(item.name) - 1].unalias()
        elif isinstance(item, exp.Tuple):
            yield from item.expressions
        else:
            yield item.unnest()


def _made_of(value: exp.Expr, texts: set[str], block: Block) -> bool:
    """The value is computed from those columns alone, so rows that agree in them agree in it."""
    columns = list(value.find_all(exp.Column))
    if not columns or not {_text(each) for each in columns} <= texts or value.find(exp.Query) is not None:
        return False
    return value in columns or not any(_is_loose(each, block) for each in columns)


def _is_loose(column: exp.Column, block: Block) -> bool:
    """Whether it is, or may be, a copy of a table's column whose equal values can have several texts."""
    source = block.sources.get(column.table)
    if source is None:
        return False
    if source.node is not None:
        known = source.node.table.column(column.name) if column.name in source.node.table else None
        return known is not None and LOOSE.fullmatch(known.base or known.sql_type) is not None
    at = source.blocks[0].position(column.name) if source.blocks else None
    below = [(each.output(at), each) for each in source.blocks] if at is not None else []
    return any(isinstance(value, exp.Column) and _is_loose(value, each) for value, each in below)


def _by_primary_key(block: Block, value: exp.Expr, grouped: set[str]) -> bool:
    """Functionally dependent on a grouped primary key of the same table occurrence."""
    if not isinstance(value, exp.Column) or value.table not in block.sources:
        return False
    node = block.sources[value.table].node
    return node is not None and all(
        _text(exp.column(each, value.table, quoted=True)) in grouped for each in node.table.key
    )


def _windows(block: Block, value: exp.Expr, same: set[str]) -> FlowError | None:
    select = block.select
    for window in select.find_all(exp.Window):
        if owner(window) is select:
            texts = {_text(each) for each in _partition(window, select)}
            if not same & texts and not _made_of(value, texts, block):
                advice = f"Write PARTITION BY {value.sql('postgres')} in it."
                return refuse("WINDOW", window, "", advice)
    return None


def _partition(window: exp.Window, select: exp.Select) -> list[exp.Expr]:
    """A window's PARTITION BY, through the named windows it builds on."""
    seen: set[str] = set()
    own = list(window.args.get("partition_by") or ())
    name = window.args.get("alias")
    while name is not None and not own and name.name not in seen:
        seen.add(name.name)
        named = [each for each in select.args.get("windows") or () if each.this.name == name.name]
        if not named:
            break
        own = list(named[0].args.get("partition_by") or ())
        name = named[0].args.get("alias")
    return own


def _distinct_on(block: Block, value: exp.Expr, same: set[str]) -> FlowError | None:
    distinct = block.select.args.get("distinct")
    on = distinct.args.get("on") if distinct is not None else None
    if on is None:
        return None
    items = on.expressions if isinstance(on, exp.Tuple) else [on.unnest()]
    texts = {_text(_unaliased(each, block)) for each in items}
    if same & texts or _made_of(value, texts, block):
        return None
    return refuse("DISTINCT_ON", on)


def _unaliased(item: exp.Expr, block: Block) -> exp.Expr:
    """DISTINCT ON may name an output column, by name or number."""
    item = item.unnest()
    if isinstance(item, exp.Literal) and item.is_int:
        return block.output(int(item.name) - 1)
    if isinstance(item, exp.Column) and not item.table:
        position = block.position(item.name)
        return item if position is None else block.output(position)
    return item


def _equal_texts(block: Block, value: exp.Expr) -> set[str]:
    """Texts of the expressions that equal the value in every row of the block."""
    equal = {_text(value)}
    pairs = [(_text(each.left), _text(each.right)) for each in inner_conditions(block) if isinstance(each, exp.EQ)]
    for _ in pairs:
        for left, right in pairs:
            if left in equal or right in equal:
                equal |= {left, right}
    return equal


def inner_conditions(block: Block) -> Iterator[exp.Expr]:
    """Conditions without which the block has no row: WHERE's, and those of INNER JOINs."""
    for join in block.select.args.get("joins") or ():
        if not join.args.get("side"):
            yield from conjuncts(join.args.get("on"))
    where = block.select.args.get("where")
    if where is not None:
        yield from conjuncts(where.this)


def _text(node: exp.Expr) -> str:
    return node.unnest().sql("postgres")
