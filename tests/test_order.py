"""Nothing goes over a set in the set's own order: strings have another one in each process, and so would messages and files.

Looked at is what is a set by its form, where it is gone over; not a set that was given a name before.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [path for folder in ("sharp_plugins", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
SET_METHODS = ("union", "intersection", "difference", "symmetric_difference")
# Where these get a set, its order is not seen; with a key it is, among those that the key makes equal.
ORDERLESS = ("sorted", "max", "min", "any", "all", "set", "frozenset", "len", "Counter")


def is_called(node, names):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def has_key(node):
    return is_called(node, ("sorted", "max", "min")) and any(keyword.arg == "key" for keyword in node.keywords)


def is_set(node):
    """Whether an expression, by its form, is a set. A dict's keys have the dict's order; keys minus others have none."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)):
        return any(is_set(side) or is_keys(side) for side in (node.left, node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS:
        return is_set(node.func.value)
    return isinstance(node, (ast.Set, ast.SetComp)) or is_called(node, ("set", "frozenset"))


def is_keys(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"


def gone_over(node):
    """What *node* takes one after the other, in an order that is seen."""
    if isinstance(node, ast.For):
        yield node.iter
    elif isinstance(node, (ast.ListComp, ast.DictComp, ast.GeneratorExp)):
        yield from (part.iter for part in node.generators)
    elif is_called(node, ("list", "tuple", "enumerate", "zip", "next", "iter", "dict", "map")) or has_key(node):
        yield from node.args
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "extend", "fromkeys"):
        yield from node.args
    parts = getattr(node, "elts", getattr(node, "args", [])) if isinstance(node, (ast.List, ast.Tuple, ast.Call)) else []
    yield from (part.value for part in parts if isinstance(part, ast.Starred))


def lines_that_depend_on_order(tree):
    """Numbers of the lines where a set is gone over, and neither sorted nor made a set again."""
    orderless = (node for node in ast.walk(tree) if is_called(node, ORDERLESS) and not has_key(node))
    hidden = {id(argument) for node in orderless for argument in node.args}
    nodes = (node for node in ast.walk(tree) if id(node) not in hidden)
    return [part.lineno for node in nodes for part in gone_over(node) if is_set(part)]


def test_no_set_is_gone_over_in_its_own_order():
    found = {path: lines_that_depend_on_order(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES}
    assert [f"{path.relative_to(ROOT)}:{line}" for path, lines in found.items() for line in lines] == []


@pytest.mark.parametrize(
    "text",
    [
        "for name in {*names} - {last}: print(name)",
        "for name in ours & theirs.keys(): print(name)",
        "[name for name in {one.name for one in found}]",
        "', '.join(set(names).union(others))",
        "list(frozenset(names))",
        "print(*{1, 2})",
        "sorted({*names} - {last}, key=len)",
    ],
)
def test_a_set_that_is_gone_over_is_found(text):
    assert lines_that_depend_on_order(ast.parse(text)) == [1]


@pytest.mark.parametrize(
    "text",
    [
        "for name in sorted({*names} - {last}): print(name)",
        "for name in theirs.keys(): print(name)",
        "{name for name in {one.name for one in found}}",
        "all(name in known for name in set(names))",
        "for place in range(first - last): print(place)",
    ],
)
def test_an_order_that_is_not_seen_is_none(text):
    assert lines_that_depend_on_order(ast.parse(text)) == []
