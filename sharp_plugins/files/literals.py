"""Settings that are written as Python values, such as ``[(512, 3)] * 4`` and ``(0.9, 0.98)``, without Python's eval."""

import ast
import operator

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
# Longer lists than any model's; a setting must not be able to fill the memory.
LONGEST = 100_000
# Of powers, which could fill it too.
LARGEST_BASE, LARGEST_EXPONENT = 2**16, 64


def evaluate(text: str):
    """The value of an expression of numbers, strings, lists, tuples, sets, dicts, ``+``, ``-``, ``*``, ``/``,
    ``//``, small powers and ``dict(name=value)``.

        >>> evaluate("[(512, 10, 5)] + [(512, 3, 2)] * 2")
        [(512, 10, 5), (512, 3, 2), (512, 3, 2)]

    Raises:
        TypeError: *text* is no string.
        ValueError: it is something else.
    """
    if not isinstance(text, str):
        raise TypeError(f"a string is expected, not {type(text).__name__}")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text[:200]!r} is no plain value, such as 0.9, (0.9, 0.98) or [(512, 3)] * 4: {error}") from error


def _value(node):
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Mult):
            for one, other in ((left, right), (right, left)):
                if hasattr(one, "__len__") and isinstance(other, int) and len(one) * other > LONGEST:
                    raise ValueError(f"more than {LONGEST} entries")
        if isinstance(node.op, ast.Pow) and (abs(left) > LARGEST_BASE or abs(right) > LARGEST_EXPONENT):
            raise ValueError(f"a power of more than {LARGEST_BASE} or to more than {LARGEST_EXPONENT}")
        return OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind([_value(part) for part in node.elts])
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        if all(keyword.arg for keyword in node.keywords):
            return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Constant):
        return node.value
    raise ValueError(f"{type(node).__name__} is not allowed")
