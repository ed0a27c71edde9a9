"""What is raised when a service needs more of BentoML than its stand-in offers."""

from __future__ import annotations

__all__ = ["NeedsBentoML"]


class NeedsBentoML(BaseException):
    """No Exception: `except Exception` and `except ImportError` in a service must not swallow it."""
