"""The part of CloudWatch's metric math and Metrics Insights that alarms of ours are made of; anything else is refused by name.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Query", "calculated", "query"]

Value = float | None

OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}  # fmt: skip
REDUCTIONS: dict[str, Callable[[list[float]], float]] = {"MAX": max, "MIN": min, "SUM": sum}
STATISTICS = {"AVG": "Average", "SUM": "Sum", "MAX": "Maximum", "MIN": "Minimum", "COUNT": "SampleCount"}
SELECT = re.compile(
    r'\s*SELECT\s+(AVG|SUM|MAX|MIN|COUNT)\((\w+)\)\s+FROM\s+SCHEMA\(\s*"([^"]+)"\s*((?:,\s*\w+\s*)*)\)\s+WHERE\s+(.+?)\s*'
)
TERM = re.compile(r"(\w+)\s*=\s*'([^']*)'")


@dataclass(frozen=True, kw_only=True)
class Query:
    """A Metrics Insights query: a statistic over all metrics with exactly the dimensions `schema`, of which some have values."""

    namespace: str
    metric: str
    statistic: str
    schema: frozenset[str]
    where: Mapping[str, str]


def query(text: str) -> Query | None:
    """The query that an expression is; None when it is none. Raises ValueError for one that is more than this."""
    if not text.lstrip().upper().startswith("SELECT"):
        return None
    found = SELECT.fullmatch(text)
    terms = [TERM.fullmatch(term.strip()) for term in re.split(r"\s+AND\s+", found[5])] if found else [None]
    if found is None or None in terms:
        raise ValueError(f"the emulator does not understand the query {text!r}")
    schema = frozenset(name.strip() for name in found[4].split(",") if name.strip())
    where = {term[1]: term[2] for term in terms if term}
    return Query(
        namespace=found[3], metric=found[2], statistic=STATISTICS[found[1]], schema=schema, where=where,
    )  # fmt: skip


def calculated(expression: str, values: Mapping[str, Value]) -> Value:
    """What an expression makes of the values of one period, None where there is none. Raises ValueError for what is not known."""
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"the emulator does not understand the expression {expression!r}") from error

    def of(node: ast.AST) -> Value:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name) if name in values:
                return values[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return _both(OPERATORS[type(op)], of(left), of(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
                return _both(OPERATORS[type(op)], of(left), of(right))
            case ast.Call(func=ast.Name(id="IF"), args=[condition, then, other]):
                decided = of(condition)
                return None if decided is None else of(then) if decided else of(other)
            case ast.Call(func=ast.Name(id="FILL"), args=[one, instead]):
                found = of(one)
                return of(instead) if found is None else found
            case ast.Call(func=ast.Name(id="MAX" | "MIN" | "SUM" as name), args=[ast.List(elts=items)]):
                there = [one for one in map(of, items) if one is not None]
                return REDUCTIONS[name](there) if there else None
        raise ValueError(f"the emulator does not know {ast.unparse(node)!r} in the expression {expression!r}")

    return of(tree)


def _both(operation: Callable[[float, float], float], left: Value, right: Value) -> Value:
    if left is None or right is None or (operation is operator.truediv and right == 0):
        return None
    return float(operation(left, right))
