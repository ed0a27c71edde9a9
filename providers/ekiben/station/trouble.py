"""Trouble that lasts, such as a full disk: told when it begins and now and then, not at each of the many tries."""

from __future__ import annotations

import errno
import logging
import time

from ekiben.errors import NoCapacity

__all__ = ["Trouble", "lacking"]

AGAIN_S = 600.0
LACKS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)

logger = logging.getLogger(__name__)


class Trouble:
    """Tells the log what fails, the same again only after AGAIN_S."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, float]] = {}

    def tell(self, doing: str, error: BaseException) -> None:
        """`doing` (a clause such as "following the runs") has failed, and will be tried again."""
        what, told_s = self._told.get(doing, ("", 0.0))
        if what != repr(error) or time.monotonic() - told_s > AGAIN_S:
            self._told[doing] = repr(error), time.monotonic()
            logger.error("%s failed, and goes on", doing, exc_info=error)


def lacking(error: BaseException) -> bool:
    """Is it that the machine has no room (disk, memory, processes, open files), for which nobody's code is to blame?"""
    return isinstance(error, NoCapacity) or (isinstance(error, OSError) and error.errno in LACKS)
