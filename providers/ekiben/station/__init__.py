"""The station: the one-machine host behind the `local` provider (see docs/station.md).

One process per environment. It holds endpoints (revisions, workers that scale from zero), functions (events, at least once) and
training runs (process groups). SQLite and plain folders below the state directory are all its state; loopback only, and a token.
"""
