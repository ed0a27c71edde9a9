"""The light stand-in for `xgboost.Booster`: a model that is loaded and predicts, by the library's own functions.

Whatever else is asked of it makes it a Booster of the real package, with the same handle.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
from typing import Any

import numpy as np

from . import handover, library
from .library import Handle, Size, arguments
from .matrix import NAN, DMatrix, array_of, comes_from_callers, frame, interface, named
from .scorer import Scorer, scorer

__all__ = ["Booster"]

# How many single rows the library predicts before the trees are laid out for them, which takes some milliseconds.
BEFORE_LAYOUT = 8
# Trees times rows up to which the interpreter's lock is kept: well under a millisecond.
SHORT = 2048
SIMPLE = (str, int, float, bool, type(None))
# Their values are rewritten by the real package before the library gets them.
REWRITTEN = frozenset({"eval_metric", "monotone_constraints", "interaction_constraints"})


class Booster(metaclass=handover.Standing):
    """`xgboost.Booster` of a saved model."""

    handle: Any
    _lib: library.Library
    _ready: bool
    _columns: int | None
    _names: list[str] | None
    _known: tuple[float, bool, bool] | None
    _singles: int
    _scorer: Scorer | None

    def __init__(self, params: Any = None, cache: Any = None, model_file: Any = None) -> None:
        self._lib = library.load()
        self._forget()
        chosen = _simple(params)
        if chosen is None or cache or not (model_file is None or isinstance(model_file, str | os.PathLike | bytearray)):
            handover.real("a Booster of more than a model's file and plain parameters", lasting=True)
            type(self).__init__(self, params, cache, model_file)  # It is one of the real package now.
            return
        handle = Handle()
        self._lib.check(self._lib.XGBoosterCreate(None, 0, ctypes.byref(handle)))
        self.handle = handle
        if model_file is not None:
            self.load_model(model_file)
        self.set_param([*chosen, ("validate_parameters", True)])

    def load_model(self, fname: Any) -> None:
        self._forget()
        if isinstance(fname, bytearray):
            content = (ctypes.c_char * len(fname)).from_buffer(fname)
            self._lib.check(self._lib.XGBoosterLoadModelFromBuffer(self.handle, ctypes.byref(content), len(fname)))
        elif isinstance(fname, str | os.PathLike):
            path = os.fspath(os.path.expanduser(fname))
            self._lib.check(self._lib.XGBoosterLoadModel(self.handle, path.encode()))
        else:
            raise TypeError("Unknown file type: ", fname)
        self._forget()

    def set_param(self, params: Any, value: Any = None) -> None:
        chosen = [(params, value)] if isinstance(params, str) and value is not None else _simple(params)
        if chosen is None or not isinstance(value, SIMPLE):
            handover.real("parameters that are no plain ones", lasting=True)
            return self.set_param(params, value)
        self._forget()
        for name, each in chosen:
            if each is not None:
                self._lib.check(self._lib.XGBoosterSetParam(self.handle, str(name).encode(), str(each).encode()))
        return None

    def predict(
        self,
        data: Any,
        *more: Any,
        output_margin: bool = False,
        pred_leaf: bool = False,
        pred_contribs: bool = False,
        approx_contribs: bool = False,
        pred_interactions: bool = False,
        validate_features: bool = True,
        training: bool = False,
        iteration_range: Any = (0, 0),
        strict_shape: bool = False,
        **others: Any,
    ) -> Any:
        if more or others or (not isinstance(data, DMatrix) and handover.loaded()):
            handover.real("another way to predict", lasting=True)
            asked = {
                "output_margin": output_margin, "pred_leaf": pred_leaf, "pred_contribs": pred_contribs,
                "approx_contribs": approx_contribs, "pred_interactions": pred_interactions,
                "validate_features": validate_features, "training": training, "iteration_range": iteration_range,
                "strict_shape": strict_shape,
            }  # fmt: skip
            return self.predict(data, *more, **asked, **others)
        if not isinstance(data, DMatrix):
            raise TypeError("Expecting data to be a DMatrix object, got: ", type(data))
        if validate_features:
            self._check_names(data._names)
        kinds = [
            kind
            for asked, kind in (
                (output_margin, 1), (pred_contribs, 3 if approx_contribs else 2),
                (pred_interactions, 5 if approx_contribs else 4), (pred_leaf, 6),
            )
            if asked
        ]  # fmt: skip
        if len(kinds) > 1:
            raise ValueError("One type of prediction at a time.")
        kind = kinds[0] if kinds else 0
        begin, end = int(iteration_range[0]), int(iteration_range[1])
        if kind < 2 and not training and "handle" not in data.__dict__ and self._plain_for(data._data):
            missing = NAN if math.isnan(data.missing) else float(data.missing)
            return self._dense(data._data, missing, kind, begin, end, strict_shape)
        room = self._lib.room
        how = arguments(
            type=kind, training=training, iteration_begin=begin, iteration_end=end, strict_shape=strict_shape
        )
        self._lib.check(self._lib.XGBoosterPredictFromDMatrix(self.handle, data.handle, how, *room.out))
        return _answer(room)

    def inplace_predict(
        self,
        data: Any,
        *more: Any,
        iteration_range: Any = (0, 0),
        predict_type: str = "value",
        missing: Any = NAN,
        validate_features: bool = True,
        base_margin: Any = None,
        strict_shape: bool = False,
        **others: Any,
    ) -> Any:
        laid = self._scorer
        if (
            laid is not None and type(data) is np.ndarray and data.shape == laid.shape and data.dtype == np.float32
            and missing is NAN and base_margin is None and iteration_range == (0, 0) and not (strict_shape or more or others)
        ):  # fmt: skip
            return laid(data[0], predict_type == "margin")  # the bare call, which is most calls
        names, rows = None, array_of(data)
        if rows is None and (plain := frame(data)) is not None:
            rows, names, _ = plain
        if more or others or base_margin is not None or rows is None or rows.ndim not in (1, 2) or not self._facts()[1]:
            handover.real(f"a prediction for {named(data)}", lasting=not comes_from_callers(data))
            return self.inplace_predict(
                data, *more, iteration_range=iteration_range, predict_type=predict_type, missing=missing,
                validate_features=validate_features, base_margin=base_margin, strict_shape=strict_shape, **others,
            )  # fmt: skip
        if validate_features:
            if names is not None:
                self._check_names(names)
            if rows.ndim == 2 and self.num_features() != rows.shape[1]:
                raise ValueError(f"Feature shape mismatch, expected: {self.num_features()}, got {rows.shape[1]}")
        missing = NAN if isinstance(missing, float) and math.isnan(missing) else missing
        kind = 1 if predict_type == "margin" else 0
        return self._dense(rows, missing, kind, int(iteration_range[0]), int(iteration_range[1]), strict_shape)

    def _dense(self, rows: Any, missing: Any, kind: int, begin: int, end: int, strict: bool) -> Any:
        if rows.shape[0] == 1 and missing is NAN and not (begin or end or strict) and rows.dtype == np.float32:
            if self._scorer is not None and rows.ndim == 2:
                return self._scorer(rows[0], kind == 1)
            self._lay_out()
        lib = self._lib
        room = lib.room
        how = (
            PLAIN[kind] if missing is NAN and not (begin or end or strict) else _how(kind, begin, end, missing, strict)
        )
        # The first prediction sets the model up, and may have something to say: for that it gives up the interpreter's lock.
        short = self._ready and rows.shape[0] * self._facts()[0] <= SHORT
        function = lib.predict_dense_held if short else lib.predict_dense
        if function(self.handle, interface(rows), how, room.matrix, *room.out):
            lib.fail()
        if not self._ready:
            self._ready = True
        return _answer(room)

    def _lay_out(self) -> None:
        self._singles += 1
        if self._singles == BEFORE_LAYOUT:
            self._scorer = scorer(json.loads(self.save_raw("json")))

    def num_features(self) -> int:
        if self._columns is None:
            found = Size()
            self._lib.check(self._lib.XGBoosterGetNumFeature(self.handle, ctypes.byref(found)))
            self._columns = found.value
        return self._columns

    def num_boosted_rounds(self) -> int:
        found = ctypes.c_int()
        self._lib.check(self._lib.XGBoosterBoostedRounds(self.handle, ctypes.byref(found)))
        return found.value

    @property
    def feature_names(self) -> list[str] | None:
        if self._names is None:
            self._names = self._strings("feature_name")
        return list(self._names) or None

    @feature_names.setter
    def feature_names(self, names: Any) -> None:
        handover.real("other names of features", lasting=True)
        self.feature_names = names

    @property
    def feature_types(self) -> list[str] | None:
        return self._strings("feature_type") or None

    @feature_types.setter
    def feature_types(self, types: Any) -> None:
        handover.real("other types of features", lasting=True)
        self.feature_types = types

    def attr(self, key: str) -> str | None:
        found, there = ctypes.c_char_p(), ctypes.c_int()
        self._lib.check(self._lib.XGBoosterGetAttr(self.handle, key.encode(), ctypes.byref(found), ctypes.byref(there)))
        return found.value.decode() if there.value and found.value is not None else None

    def attributes(self) -> dict[str, str | None]:
        count, found = Size(), ctypes.POINTER(ctypes.c_char_p)()
        self._lib.check(self._lib.XGBoosterGetAttrNames(self.handle, ctypes.byref(count), ctypes.byref(found)))
        names = [str(each, "utf-8") for each in found[: count.value]]
        return {name: self.attr(name) for name in names}

    @property
    def best_iteration(self) -> int:
        return int(self._early("best_iteration"))

    @best_iteration.setter
    def best_iteration(self, iteration: int) -> None:
        handover.real("another best iteration", lasting=True)
        self.best_iteration = iteration

    @property
    def best_score(self) -> float:
        return float(self._early("best_score"))

    @best_score.setter
    def best_score(self, score: float) -> None:
        handover.real("another best score", lasting=True)
        self.best_score = score

    def save_config(self) -> str:
        length, found = Size(), ctypes.c_char_p()
        self._lib.check(self._lib.XGBoosterSaveJsonConfig(self.handle, ctypes.byref(length), ctypes.byref(found)))
        return (found.value or b"").decode()

    def save_raw(self, raw_format: str = "ubj") -> bytearray:
        length, found = Size(), ctypes.c_void_p()
        how = arguments(format=raw_format)
        self._lib.check(
            self._lib.XGBoosterSaveModelToBuffer(self.handle, how, ctypes.byref(length), ctypes.byref(found))
        )
        return bytearray(ctypes.string_at(found.value or 0, length.value))

    def become(self, cls: type) -> None:
        """Be one of the real package."""
        kept = {name: self.__dict__[name] for name in ("handle",) if name in self.__dict__}
        self.__dict__.clear()
        self.__dict__.update(kept)
        self.__class__ = cls

    def __getattr__(self, name: str) -> Any:
        if name in ("best_iteration", "best_score"):
            raise AttributeError(f"`{name}` is only defined when early stopping is used.")
        if name.startswith("_") or name == "handle":
            raise AttributeError(f"'Booster' object has no attribute {name!r}")
        handover.real(f"Booster.{name}", lasting=True)
        return getattr(self, name)

    def __getitem__(self, layers: Any) -> Any:
        handover.real("a slice of a Booster", lasting=True)
        return self[layers]

    def __iter__(self) -> Any:
        handover.real("the layers of a Booster", lasting=True)
        return iter(self)

    def __copy__(self) -> Any:
        handover.real("a copy of a Booster", lasting=True)
        return self.__copy__()

    def __deepcopy__(self, memo: Any) -> Any:
        handover.real("a copy of a Booster", lasting=True)
        return self.__deepcopy__(memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        handover.real("a Booster as bytes", lasting=True)
        return self.__reduce_ex__(protocol)

    def __del__(self) -> None:
        if (handle := self.__dict__.pop("handle", None)) is not None:
            self._lib.XGBoosterFree(handle)

    def _forget(self) -> None:
        """What is known of the model, which may be another now."""
        self._ready, self._columns, self._names, self._known = False, None, None, None
        self._singles, self._scorer = 0, None

    def _facts(self) -> tuple[float, bool, bool]:
        """How many trees; does it run on a CPU; are the rows of a matrix predicted as rows of an array are?"""
        if self._known is None:
            learner = json.loads(self.save_config())["learner"]
            booster = learner["gradient_booster"]
            trees = booster.get("gbtree_model_param", {}).get("num_trees", "inf")
            on_cpu = learner.get("generic_param", {}).get("device", "cpu") == "cpu"
            self._known = float(trees), on_cpu, booster.get("name") == "gbtree"
        return self._known

    def _plain_for(self, rows: Any) -> bool:
        _, on_cpu, same = self._facts()
        return on_cpu and same and rows.shape[1] == self.num_features() and rows.shape[0] > 0

    def _check_names(self, names: list[str] | None) -> None:
        if self._names is None:
            self._names = self._strings("feature_name")
        mine = self._names
        if not mine or mine == names:
            return
        if names is None:
            raise ValueError(
                "data did not contain feature names, but the following fields are expected: " + ", ".join(mine)
            )
        lines = [f"feature_names mismatch: {mine} {names}"]
        if absent := set(mine) - set(names):
            lines.append("expected " + ", ".join(absent) + " in input data")
        if extra := set(names) - set(mine):
            lines.append("training data did not have the following fields: " + ", ".join(extra))
        raise ValueError("\n".join(lines))

    def _early(self, name: str) -> str:
        found = self.attr(name)
        if found is None:
            raise AttributeError(name)
        return found

    def _strings(self, field: str) -> list[str]:
        count, found = Size(), ctypes.POINTER(ctypes.c_char_p)()
        self._lib.check(
            self._lib.XGBoosterGetStrFeatureInfo(self.handle, field.encode(), ctypes.byref(count), ctypes.byref(found))
        )
        return [str(each, "utf-8") for each in found[: count.value]]


def _how(kind: int, begin: int, end: int, missing: Any, strict: Any) -> bytes:
    return arguments(
        type=kind, training=False, iteration_begin=begin, iteration_end=end, missing=missing, strict_shape=strict, cache_id=0
    )  # fmt: skip


# What most predictions ask for: the value, the margin.
PLAIN = tuple(_how(kind, 0, 0, NAN, False) for kind in (0, 1))


def _simple(params: Any) -> list[tuple[str, Any]] | None:
    """The parameters, when the library gets them as they are."""
    if params is None:
        return []
    pairs = list(params.items()) if isinstance(params, dict) else params
    if not isinstance(pairs, list) or not all(isinstance(each, tuple) and len(each) == 2 for each in pairs):
        return None
    if any(name in REWRITTEN or not isinstance(value, SIMPLE) for name, value in pairs):
        return None
    return pairs


def _answer(room: Any) -> Any:
    """What the library wrote down for this thread, as an array of its own."""
    address, dimensions = room.values.value, room.dimensions.value
    if address is None:
        return np.empty(0, np.float32)
    shape = room.shape[:dimensions]
    count = shape[0] if dimensions == 1 else math.prod(shape)
    values = (
        np.empty(count, np.float32)
        if not count
        else np.frombuffer(ctypes.string_at(address, 4 * count), np.float32).copy()
    )
    return values if dimensions == 1 else values.reshape(shape)
