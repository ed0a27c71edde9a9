"""AWS on this machine: moto, what it lacks beside it, and real processes behind it."""

from __future__ import annotations

from ekiben.emulators.aws.launch import Server, ensure, running, stop

__all__ = ["Server", "ensure", "running", "stop"]
