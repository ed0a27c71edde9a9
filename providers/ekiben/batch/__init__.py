"""Predictions for files and SQL queries: rows in Arrow batches through the bento itself, in its own environment, to a file.

The bento runs in worker processes (`worker.py`, by path, with nothing of Ekiben); this side reads, checks, keeps the order,
saves what is finished and writes. pyarrow and numpy are imported when a batch is run, never before.
"""
