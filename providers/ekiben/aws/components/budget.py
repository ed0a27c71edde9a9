"""Budget on AWS."""

from __future__ import annotations

from ekiben import components
from ekiben.aws import SUPPORT
from ekiben.aws.components.program import Aws
from ekiben.errors import SpecError

__all__ = ["Budget"]


class Budget(Aws, components.Budget):
    """Not made yet."""

    support = SUPPORT

    def create(self) -> None:
        raise SpecError(f"The budget {self.name!r} cannot be made on aws by this version. Make it on another provider.")
