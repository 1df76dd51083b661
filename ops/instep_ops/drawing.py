"""A flow's graph as SVG: tables from left to right towards the key. Pure."""

from __future__ import annotations

from html import escape
from typing import Final

from instep_streams.flows.explain import KEY, Graph

_CHARACTER, _LINE, _PADDING, _GAP_X, _GAP_Y, _MARGIN = 7.3, 17, 10, 170, 28, 20
_MOST: Final = 12
"""Columns shown of one table."""

Box = tuple[float, float, float, float]
"""x, y, width, height."""


def draw(graph: Graph, title: str) -> str:
    """The graph as one SVG document; text only, no scripts, nothing loaded.

    Args:
        graph: of the flow.
        title: shown above it.
    """
    texts = {table: _lines(table, columns) for table, columns in graph.columns.items()}
    texts[KEY] = ["key", *graph.key]
    boxes = _place(graph, texts)
    width = max(x + w for x, _, w, _ in boxes.values()) + _MARGIN
    height = max(y + h for _, y, _, h in boxes.values()) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" font-family="monospace" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker></defs><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN}" font-weight="bold">{escape(title)}</text>',
    ]
    seen: dict[tuple[str, str], int] = {}
    for arrow in graph.arrows:
        number = seen[arrow.table, arrow.to] = seen.get((arrow.table, arrow.to), -1) + 1
        parts.append(_arrow(boxes[arrow.table], boxes[arrow.to], arrow.on, number))
    parts += [_box(boxes[name], lines, name == KEY) for name, lines in texts.items()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(table: str, columns: tuple[str, ...]) -> list[str]:
    more = [f"… {len(columns) - _MOST} more"] if len(columns) > _MOST else []
    return [table, *columns[:_MOST], *more]


def _depths(graph: Graph) -> dict[str, int]:
    """Steps from each table to the key, by the shortest way."""
    depths = {KEY: 0}
    for _ in graph.columns:
        for arrow in graph.arrows:
            if arrow.to in depths and arrow.to != arrow.table:
                depths[arrow.table] = min(depths.get(arrow.table, len(graph.columns) + 1), depths[arrow.to] + 1)
    return depths


def _place(graph: Graph, texts: dict[str, list[str]]) -> dict[str, Box]:
    depths = _depths(graph)
    boxes: dict[str, Box] = {}
    x = float(_MARGIN)
    for depth in range(max(depths.values()), -1, -1):
        column = [name for name in texts if depths.get(name, 1) == depth]
        width = max((_CHARACTER * max(map(len, texts[name])) + 2 * _PADDING for name in column), default=0.0)
        y = 2.0 * _MARGIN
        for name in column:
            height = _LINE * len(texts[name]) + 2 * _PADDING
            boxes[name] = (x, y, width, height)
            y += height + _GAP_Y
        x += width + _GAP_X
    return boxes


def _box(box: Box, lines: list[str], round_: bool) -> str:
    x, y, width, height = box
    drawn = [
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="{18 if round_ else 3}"'
        f' fill="{"#e6f4ea" if round_ else "#eef3fb"}" stroke="#333"/>'
    ]
    for number, line in enumerate(lines):
        weight = ' font-weight="bold"' if number == 0 else ""
        at = y + _PADDING + _LINE * (number + 0.75)
        drawn.append(f'<text x="{x + _PADDING:.0f}" y="{at:.0f}"{weight}>{escape(line)}</text>')
    return "".join(drawn)


def _arrow(start: Box, end: Box, label: str, number: int) -> str:
    shift = 14 * number
    x1, y1 = start[0] + start[2], start[1] + min(start[3] / 2 + shift, start[3])
    x2, y2 = end[0], end[1] + min(end[3] / 2 + shift, end[3])
    if end[0] <= start[0]:  # in the same column, or the table itself: around the right side
        x2, y2 = end[0] + end[2], end[1] + end[3] - 6
        path = f"M{x1:.0f} {y1:.0f} C{x1 + 60:.0f} {y1:.0f} {x2 + 60:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
        at, anchor = (x1 + 48, (y1 + y2) / 2), "start"
    else:
        path = f"M{x1:.0f} {y1:.0f} L{x2:.0f} {y2:.0f}"
        at, anchor = ((x1 + x2) / 2, (y1 + y2) / 2 - 4), "middle"
    return (
        f'<path d="{path}" fill="none" stroke="#333" marker-end="url(#tip)"/>'
        f'<text x="{at[0]:.0f}" y="{at[1]:.0f}" text-anchor="{anchor}" font-size="11">{escape(label)}</text>'
    )
