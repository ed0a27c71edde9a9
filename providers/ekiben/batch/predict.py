"""One batch through the workers: what cannot be is taken out first, and a row that breaks the model is found by halving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ekiben.batch.conform import conformed
from ekiben.batch.frames import decoded, encoded
from ekiben.batch.route import Route
from ekiben.batch.sources import Piece
from ekiben.batch.workers import BatchFailed, Crew
from ekiben.errors import ModelFailed

__all__ = ["Predicted", "predicted"]

# A model that raises on more rows of one batch than this is broken, rather than the rows.
MAX_FAILED = 100


class Predicted(NamedTuple):
    """A batch with its answers. `good`: indices of the rows that `answers` (an Arrow table, None without any) are for."""

    piece: Piece
    good: Any
    answers: Any
    bad: dict[int, str]


def predicted(crew: Crew, route: Route, piece: Piece, nulls: Sequence[str]) -> Predicted:
    """The predictions of a batch. Raises ModelFailed when the model fails on more than single rows."""
    import numpy as np
    import pyarrow as pa

    columns, bad = conformed(route, piece.table, nulls, piece.texts)
    rows = np.setdiff1d(np.arange(piece.table.num_rows), np.fromiter(bad, dtype=np.int64, count=len(bad)))
    parts: list[tuple[Any, Any]] = []
    raised = 0
    waiting = [rows] if len(rows) else []
    while waiting:
        indices = waiting.pop()
        whole = len(indices) == piece.table.num_rows
        taken = pa.array(indices)
        given = columns if whole else {name: array.take(taken) for name, array in columns.items()}
        try:
            header, buffers = crew.call(*encoded(route, given, len(indices)))
        except BatchFailed as error:
            if len(indices) > 1:
                middle = len(indices) // 2
                waiting += [indices[middle:], indices[:middle]]
                continue
            raised += 1
            if raised > MAX_FAILED:
                raise ModelFailed(
                    f"The model fails on more than {MAX_FAILED} rows of one batch; the last said: {error}. Mend the model."
                ) from error
            bad[int(indices[0])] = str(error)
            continue
        invalid = dict(header.get("invalid", []))
        bad.update({int(indices[i]): reason for i, reason in invalid.items()})
        kept = np.delete(indices, list(invalid))
        if len(kept):
            parts.append((kept, decoded(route, header, buffers)))
    if not parts:
        return Predicted(piece, rows[:0], None, bad)
    good = np.concatenate([kept for kept, _ in parts])
    answers = (
        parts[0][1] if len(parts) == 1 else pa.concat_tables([part for _, part in parts], promote_options="permissive")
    )
    return Predicted(piece, good, answers, bad)
