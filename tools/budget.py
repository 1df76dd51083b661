"""The size budget of docs/adr and CONTRIBUTING: functions and files stay small. Prints what is over, exits 1 then."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from statistics import median

ROOTS = ("core", "schemas", "connectors", "streams", "ops")
COMPILED = ("*.pyx", "*.pxd")
MAX_FUNCTION, MAX_FILE = 80, 400


def functions(tree: ast.AST) -> list[tuple[str, int, int]]:
    """Name, line and length of every function."""
    return [
        (node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def main() -> int:
    """Measure the source roots."""
    over, lengths, sizes = [], [], []
    for file in sorted(path for root in ROOTS for path in Path(root).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        sizes.append(text.count("\n"))
        if sizes[-1] > MAX_FILE:
            over.append(f"{file}: {sizes[-1]} lines (at most {MAX_FILE})")
        for name, line, length in functions(ast.parse(text)):
            lengths.append(length)
            if length > MAX_FUNCTION:
                over.append(f"{file}:{line} {name}: {length} lines (at most {MAX_FUNCTION})")
    for file in sorted(path for root in ROOTS for kind in COMPILED for path in Path(root).rglob(kind)):
        if (size := file.read_text(encoding="utf-8").count("\n")) > MAX_FILE:
            over.append(f"{file}: {size} lines (at most {MAX_FILE})")
    lengths.sort()
    p95 = lengths[int(len(lengths) * 0.95)]
    print(f"files: {len(sizes)}, median {median(sizes):.0f} lines")
    print(f"functions: {len(lengths)}, median {median(lengths):.0f}, p95 {p95} lines")
    print(*over, sep="\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
