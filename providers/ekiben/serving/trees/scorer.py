"""One row through all trees at once, with NumPy: XGBoost's own answer to the last bit, for less than a call of its library costs.

A call of the library parses its arguments, makes views of all trees and compiles a regular expression, whatever the number of rows.
Here every threshold of every tree is compared with its value in one step. A node that sends the row to one side excludes the
leaves of its other side, as bits; the first leaf that none of its tree's nodes has excluded is the one that the row falls into
(QuickScorer: Lucchese et al., SIGIR 2015). The leaves are added up in single precision, one after the other, as XGBoost adds them.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import threading
from collections.abc import Callable
from typing import Any, cast

import numpy as np

__all__ = ["MAX_NODES", "Scorer", "scorer"]

# Beyond this many thresholds (each tree counts as the largest) the library's own way is the faster one.
MAX_NODES = 16_384
MAX_LEAVES = 64
# XGBoost's (src/common/math.h), so that e^-x stays a number.
MAX_EXPONENT = float(np.float32(88.7))

add, add_up, negative, multiply, greater_equal = np.add, np.add.accumulate, np.negative, np.multiply, np.greater_equal
bitwise_xor = np.bitwise_xor
or_all: Any = np.bitwise_or.reduce
bitwise_count: Any = getattr(np, "bitwise_count", None)  # since NumPy 2

Row = Any  # np.ndarray of one dimension
Transform = Callable[[Row], Row]


class Scorer:
    """Called with a row (columns,) and whether the margin is asked for; gives what XGBoost's `inplace_predict` gives for `shape`.

    May be called by several threads.
    """

    def __init__(self, model: _Trees, bases: Row, transform: Transform) -> None:
        self._rooms = _Rooms(model, bases)
        self._transform = transform
        self.shape = 1, model.columns
        self._turned, self._one = model.turned, model.groups == 1
        # One number comes out as an array of one, and several as an array of one row.
        self._last = slice(-1, None) if self._one else -1

    def __call__(self, row: Row, margin: bool) -> Row:
        (given, minus, both, at, values, bounds, exceeds, gone, excluded, left, ones, more, counted, first, place, leaves, each,
         sums) = self._rooms.all  # fmt: skip
        # Results by their places and not by name, which costs as much as the work.
        if self._turned:
            given[:] = row
            negative(row, minus)
            row = both
        row.take(at, None, values, "clip")
        greater_equal(values, bounds, exceeds)
        multiply(gone, exceeds, excluded)
        or_all(excluded, 0, None, left)
        # Of the lowest bit that is not set and all below it, the number is the leaf's.
        add(left, ones, more)
        bitwise_xor(left, more, more)
        bitwise_count(more, counted)
        add(first, counted, place)
        leaves.take(place, None, each, "clip")
        total = add_up(sums, 0)[self._last]
        if margin:
            return total if self._one else total[np.newaxis]
        return self._transform(total)


class _Trees:
    """The trees as arrays: a column for each tree, a line for each of its nodes; in a smaller tree the last ones say nothing."""

    def __init__(self, trees: list[dict[str, Any]], columns: int, groups: int) -> None:
        walked = [_Walk(tree, columns) for tree in trees]
        shape = max(max(len(each.nodes) for each in walked), 1), len(trees)
        bits = max(len(each.leaves) for each in walked)
        self.columns, self.groups = columns, groups
        self.turned = any(at >= columns for each in walked for at, _, _ in each.nodes)
        self.mask = next(np.dtype(f"u{size}") for size in (1, 2, 4, 8) if bits <= 8 * size)
        self.at, self.gone = np.zeros(shape, np.intp), np.zeros(shape, self.mask)
        self.bounds = np.full(shape, np.nan, np.float32)
        self.leaves = np.zeros((len(trees), bits), np.float32)
        for tree, each in enumerate(walked):
            self.leaves[tree, : len(each.leaves)] = each.leaves
            for line, node in enumerate(each.nodes):
                self.at[line, tree], self.bounds[line, tree], self.gone[line, tree] = node


class _Walk:
    """One tree: its leaves in order, and its nodes: which value, its bound, and the leaves it excludes when it is not below that.

    A missing value is not above any bound, so each node's first child is the one where missing values go. Where that is the right
    one, the comparison is turned round: not x < b as it stands, but -x >= the next number above -b.
    """

    def __init__(self, tree: dict[str, Any], columns: int) -> None:
        self._tree, self._columns = tree, columns
        self.leaves: list[float] = []
        self.nodes: list[tuple[int, Any, int]] = []
        self._below(0)

    def _below(self, node: int) -> None:
        tree = self._tree
        at = tree["split_conditions"][node]
        children = tree["left_children"][node], tree["right_children"][node]
        if children[0] == -1:
            self.leaves.append(at)
            if len(self.leaves) > MAX_LEAVES:
                raise _TooLarge
            return
        column, bound = tree["split_indices"][node], np.float32(at)
        if not tree["default_left"][node]:
            children, column, bound = children[::-1], column + self._columns, np.nextafter(-bound, np.float32(np.inf))
        begin = len(self.leaves)
        self._below(children[0])
        self.nodes.append((column, bound, (1 << len(self.leaves)) - (1 << begin)))
        self._below(children[1])


class _TooLarge(Exception):
    """A tree has more leaves than there are bits."""


class _Rooms(threading.local):
    """What each thread works in."""

    def __init__(self, model: _Trees, bases: Row) -> None:
        shape, columns = model.at.shape, model.columns
        count, groups = shape[1], model.groups
        both = np.zeros(2 * columns, np.float32)
        sums = np.empty((count // groups + 1, groups), np.float32)
        sums[0] = bases
        self.all = (
            both[:columns], both[columns:], both, model.at, np.empty(shape, np.float32), model.bounds, np.empty(shape, np.bool_),
            model.gone, np.empty(shape, model.mask), np.empty(count, model.mask), np.ones(count, model.mask),
            np.empty(count, model.mask), np.empty(count, np.uint8), np.arange(count) * model.leaves.shape[1] - 1,
            np.empty(count, np.intp), model.leaves.ravel(), sums[1:].reshape(-1), sums.ravel() if groups == 1 else sums,
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
        lines = max(tree["left_children"].__len__() // 2 for tree in trees)
        in_order = [
            [tree for tree, group in zip(trees, groups_of, strict=True) if group == one] for one in range(groups)
        ]
        if max(lines, 1) * len(trees) > MAX_NODES or len({len(each) for each in in_order}) != 1:
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


def _same(total: Row) -> Row:
    return total


def _sigmoid(total: Row) -> Row:
    # A single operation in double precision, rounded to single, is that operation in single precision.
    return np.array([1.0 / np.float32(_c.exp(min(-total.item(), MAX_EXPONENT)) + 1.0)], np.float32)


def _exponential(total: Row) -> Row:
    return np.array([_c.exp(total.item())], np.float32)


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
