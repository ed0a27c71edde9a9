"""One row through all trees at once, with NumPy: XGBoost's own answer to the last bit, for less than a call of its library costs.

A call of the library parses its arguments, makes views of all trees and compiles a regular expression, whatever the number of rows.
Here a node that sends the row to one side excludes the leaves of its other side, as bits; the first leaf that none of its tree's
nodes has excluded is the one that the row falls into (QuickScorer: Lucchese et al., SIGIR 2015). Which leaves all nodes together
that look at one column exclude depends on nothing but the number of their thresholds that the value reaches, so that is a table,
made beforehand: a row takes one search in the sorted thresholds and one line of the table for each column, however many nodes
there are. The leaves are added up in single precision, one after the other, as XGBoost adds them.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import threading
from collections.abc import Callable
from typing import Any, cast

import numpy as np

__all__ = ["Scorer", "scorer"]

# Of the table: beyond it the library's own way is taken. 250 full trees of depth 6 take two thirds of it.
MAX_TABLE_BYTES = 16 << 20
MAX_LEAVES = 64
# XGBoost's (src/common/math.h), so that e^-x stays a number.
MAX_EXPONENT = float(np.float32(88.7))

add, add_up, fmax, fmin, bitwise_xor = np.add, np.add.accumulate, np.fmax, np.fmin, np.bitwise_xor
or_all: Any = np.bitwise_or.reduce
bitwise_count: Any = getattr(np, "bitwise_count", None)  # since NumPy 2
LOWEST, HIGHEST = np.float32(-np.inf), np.float32(np.inf)

Row = Any  # np.ndarray of one dimension
Transform = Callable[[Any], Row]


class Scorer:
    """Called with a row (columns,) and whether the margin is asked for; gives what XGBoost's `inplace_predict` gives for `shape`.

    May be called by several threads.
    """

    def __init__(self, model: _Trees, bases: Row, transform: Transform) -> None:
        self._rooms = _Rooms(model, bases)
        self._transform = transform
        self.shape = 1, model.columns
        self._columns, self._one = model.chosen, model.groups == 1

    def __call__(self, row: Row, margin: bool) -> Row:
        (taken, missing, wanted, bounds, table, lines, left, ones, more, counted, first, place, leaves, each,
         sums) = self._rooms.all  # fmt: skip
        # Results by their places and not by name, which costs as much as the work.
        if self._columns is not None:
            row = row.take(self._columns, None, taken, "clip")
        for bound, part, ends, values in missing:
            bound(row if part is None else part, ends, values)
        table.take(bounds.searchsorted(wanted, "right"), 0, lines, "clip")
        or_all(lines, 0, None, left)
        # Of the lowest bit that is not set and all below it, the number is the leaf's.
        add(left, ones, more)
        bitwise_xor(left, more, more)
        bitwise_count(more, counted)
        add(first, counted, place)
        leaves.take(place, None, each, "clip")
        total = add_up(sums, 0)
        # One number comes out as an array of one, and several as an array of one row.
        if margin:
            return total[-1:]
        return self._transform(total.item(-1) if self._one else total[-1])


class _Trees:
    """The trees as arrays. `table` has a column for each tree, and a line for each number of thresholds that a value may reach;
    `bounds` is sorted, and what a search in it finds is the line.

    chosen: of a row, the columns that any node looks at; None for all of them as they stand. What is missing is below all
    thresholds of the first `lowest` of them, and above all of the others.
    """

    def __init__(self, trees: list[dict[str, Any]], columns: int, groups: int) -> None:
        walked = [_Walk(tree, columns) for tree in trees]
        bits = max(len(each.leaves) for each in walked)
        self.columns, self.groups = columns, groups
        self.mask = next(np.dtype(f"u{size}") for size in (1, 2, 4, 8) if bits <= 8 * size)
        self.leaves = np.zeros((len(trees), bits), np.float32)
        for tree, each in enumerate(walked):
            self.leaves[tree, : len(each.leaves)] = each.leaves
        nodes = [(*node, tree) for tree, each in enumerate(walked) for node in each.nodes]
        used = sorted({node[0] for node in nodes})
        # One threshold for each column that every value reaches: no line before it is another column's.
        nodes += [(column, LOWEST, 0, 0) for column in used]
        self.lowest = sum(column < columns for column in used)
        # All of one kind, as they mostly are: of a model that has seen nothing missing.
        self.whole = self.lowest in (0, len(used))
        chosen = [column % columns for column in used]
        self.chosen = None if self.whole and chosen == list(range(columns)) else np.array(chosen, np.intp)
        self._lay(nodes, {column: place for place, column in enumerate(used)}, len(trees))

    def _lay(self, nodes: list[tuple[int, Any, int, int]], places: dict[int, int], trees: int) -> None:
        at = np.array([places[node[0]] for node in nodes], np.float32)
        bounds, which = np.unique(_pairs(at, np.array([node[1] for node in nodes], np.float32)), return_inverse=True)
        if (len(bounds) + 1) * trees * self.mask.itemsize > MAX_TABLE_BYTES:
            raise _TooLarge
        # A search gives the number of thresholds that are reached, the first of which is the second line.
        self.table = np.zeros((len(bounds) + 1, trees), self.mask)
        gone = np.array([node[2] for node in nodes], self.mask)
        np.bitwise_or.at(self.table, (which + 1, np.array([node[3] for node in nodes], np.intp)), gone)
        for place in range(len(places)):
            first, last = np.searchsorted(bounds.real, (place, place + 1))
            lines = self.table[first + 1 : last + 1]
            np.bitwise_or.accumulate(lines, axis=0, out=lines)
        self.bounds, self.wanted = bounds, _pairs(np.arange(len(places), dtype=np.float32), LOWEST)


def _pairs(columns: Row, values: Row) -> Row:
    """Complex numbers, which are sorted by their real parts, then by their imaginary ones."""
    made = np.empty(len(columns), np.complex64)
    made.real, made.imag = columns, values
    return made


class _Walk:
    """One tree: its leaves in order, and its nodes: which value, its bound, and the leaves it excludes when it is not below that.

    A node that sends missing values to the right looks at a column of its own, beyond the last.
    """

    def __init__(self, tree: dict[str, Any], columns: int) -> None:
        self._tree, self._columns = tree, columns
        self.leaves: list[float] = []
        self.nodes: list[tuple[int, Any, int]] = []
        self._below(0)

    def _below(self, node: int) -> None:
        tree = self._tree
        at = tree["split_conditions"][node]
        left, right = tree["left_children"][node], tree["right_children"][node]
        if left == -1:
            self.leaves.append(at)
            if len(self.leaves) > MAX_LEAVES:
                raise _TooLarge
            return
        column = tree["split_indices"][node] + (0 if tree["default_left"][node] else self._columns)
        begin = len(self.leaves)
        self._below(left)
        self.nodes.append((column, np.float32(at), (1 << len(self.leaves)) - (1 << begin)))
        self._below(right)


class _TooLarge(Exception):
    """A tree has more leaves than there are bits, or all of them take too large a table."""


class _Rooms(threading.local):
    """What each thread works in."""

    def __init__(self, model: _Trees, bases: Row) -> None:
        count, groups, used = model.table.shape[1], model.groups, len(model.wanted)
        sums = np.empty((count // groups + 1, groups), np.float32)
        sums[0] = bases
        wanted, taken = model.wanted.copy(), np.empty(used, np.float32)
        missing = tuple(
            (bound, None if model.whole else taken[part], np.full(len(taken[part]), end), wanted.imag[part])
            for bound, end, part in (
                (fmax, LOWEST, slice(model.lowest)), (fmin, HIGHEST, slice(model.lowest, used))
            )
            if len(taken[part])
        )  # fmt: skip
        self.all = (
            taken, missing, wanted, model.bounds, model.table, np.empty((used, count), model.mask),
            np.empty(count, model.mask), np.ones(count, model.mask), np.empty(count, model.mask), np.empty(count, np.uint8),
            np.arange(count) * model.leaves.shape[1] - 1, np.empty(count, np.intp), model.leaves.ravel(), sums[1:].reshape(-1),
            sums.ravel() if groups == 1 else sums,
        )  # fmt: skip


def scorer(model: dict[str, Any]) -> Scorer | None:
    """The scorer of a model, as XGBoost writes it in JSON; None where this way is not known to give the same answers."""
    try:
        learner = model["learner"]
        booster, about = learner["gradient_booster"], learner["learner_model_param"]
        found = _OBJECTIVES.get(learner["objective"]["name"])
        if booster["name"] != "gbtree" or found is None or bitwise_count is None:
            return None
        groups, columns = max(int(about["num_class"]), 1), int(about["num_feature"])
        trees, groups_of = booster["model"]["trees"], booster["model"]["tree_info"]
        if int(about.get("num_target", "1")) != 1 or not columns or not all(map(_plain, trees)):
            return None
        in_order = [
            [tree for tree, group in zip(trees, groups_of, strict=True) if group == one] for one in range(groups)
        ]
        if len({len(each) for each in in_order}) != 1:
            return None
        margin_of, transform = found
        bases = _bases(about["base_score"], groups, margin_of)
        rounds = [tree for each in zip(*in_order, strict=True) for tree in each]
        return Scorer(_Trees(rounds, columns, groups), bases, transform)
    except (KeyError, ValueError, TypeError, OSError, AttributeError, _TooLarge, RecursionError):
        return None  # another version's form of a model


def _plain(tree: dict[str, Any]) -> bool:
    """Numbers are compared, each leaf is one number, and no bound is beyond all numbers."""
    return (
        not any(tree["split_type"])
        and tree["tree_param"]["size_leaf_vector"] in ("0", "1")
        and all(map(math.isfinite, tree["split_conditions"]))
    )


def _bases(stated: str, groups: int, margin_of: Callable[[Any], float]) -> Row:
    """What the sums begin with: one number for all groups, or one for each."""
    given = [float(each) for each in stated.strip("[]").split(",")]
    bases = [margin_of(np.float32(each)) for each in given]
    if len(bases) not in (1, groups):
        raise ValueError(stated)
    return np.array(bases, np.float32)


class _Math:
    """The C library's functions in single precision, which XGBoost calls. NumPy's differ from them in the last bit."""

    def __init__(self) -> None:
        library = ctypes.PyDLL(ctypes.util.find_library("m") or "libm.so.6")
        for function in (library.expf, library.logf):
            function.argtypes, function.restype = (ctypes.c_float,), ctypes.c_float
        self.exp, self.log = library.expf, library.logf


class _Lazy:
    """`_Math`, made when it is first used."""

    def __getattr__(self, name: str) -> Any:
        made = _Math()
        self.__dict__.update(made.__dict__)
        return self.__dict__[name]


_c = cast(Any, _Lazy())


def _same(total: float) -> Row:
    return np.array([total], np.float32)


def _sigmoid(total: float) -> Row:
    # A single operation in double precision, rounded to single as the array does, is that operation in single precision.
    made = np.empty(1, np.float32)
    made[0] = _c.exp(min(-total, MAX_EXPONENT)) + 1.0
    made[0] = 1.0 / made.item()
    return made


def _exponential(total: float) -> Row:
    return np.array([_c.exp(total)], np.float32)


def _shares(total: Row) -> Row:
    """XGBoost's softmax: exponentials added up in double precision, divided in single."""
    each = [_c.exp(value) for value in (total - total.max()).tolist()]
    return (np.array(each, np.float32) / np.float32(sum(each)))[np.newaxis]


def _largest(total: Row) -> Row:
    return np.array([total.argmax()], np.float32)


def _logit(score: Any) -> float:
    return -cast(float, _c.log(np.float32(1) / score - np.float32(1)))


def _log(score: Any) -> float:
    return cast(float, _c.log(score))


# What an objective makes of a base score, and of the sums.
_OBJECTIVES: dict[str, tuple[Callable[[Any], float], Transform]] = {
    **dict.fromkeys(
        ("reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:squaredlogerror", "rank:ndcg", "rank:map",
         "rank:pairwise", "binary:logitraw"), (float, _same)
    ),
    **dict.fromkeys(("binary:logistic", "reg:logistic"), (_logit, _sigmoid)),
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), (_log, _exponential)),
    "multi:softprob": (float, _shares),
    "multi:softmax": (float, _largest),
}  # fmt: skip
