"""What you ask of the watch over a platform: alarms on what runs, and a budget for what it costs."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from ekiben.features import Feature
from ekiben.specs import Dispensable

__all__ = ["BudgetSpec", "MonitorSpec"]

EMAIL = r"[^\s@:/]+@[^\s@:/]+\.[^\s@:/.]+"
Email = Annotated[str, Field(max_length=50, pattern=f"^{EMAIL}$")]
Address = Annotated[str, Field(max_length=512, pattern=rf"^(?:{EMAIL}|https://[^\s/@]+(?:/\S*)?)$")]
Percent = Annotated[float, Field(gt=0, le=100)]
Share = Annotated[float, Field(gt=0, le=1000)]


class MonitorSpec(Dispensable):
    """Alarms on the components that it watches, and who is told. None turns an alarm off; an alarm that ends is told, too."""

    feature: ClassVar[Feature] = Feature.ALARMS

    notify: tuple[Address, ...] = Field(default=(), max_length=20)
    """E-mail addresses and https:// URLs, which have to confirm that they want to hear; without any, alarms are there to see."""
    window_s: int = Field(default=300, ge=60, le=86_400, multiple_of=60)
    """Seconds over which calls are counted: whole minutes."""
    endpoint_errors_percent: Percent | None = 5.0
    """Of each endpoint: the share of requests in a window that failed. Above it is an alarm."""
    min_requests: int = Field(default=20, ge=1, le=1_000_000)
    """Requests in a window, of which fewer raise no alarm about their share of errors."""
    endpoint_p99_ms: float | None = Field(default=None, gt=0, le=3_600_000)
    """Of each endpoint: the time in which 99 of 100 requests of a window are answered. Above it is an alarm."""
    function_failures: int | None = Field(default=1, ge=1, le=1_000_000)
    """Of each function: failed calls in a window, retries among them. From this number on is an alarm."""
    dead_letters: int | None = Field(default=1, ge=1, le=1_000_000)
    """Of each function: events given up in a window. From this number on is an alarm."""
    training_failures: bool = True
    """Of each training: tell of every run that fails, as it does."""
    kms_key: str = ""
    """The customer's key for what waits to be told; empty takes one of its own where the provider needs one."""


class BudgetSpec(Dispensable):
    """What the stack may cost in a calendar month, and who is told when it costs more. Nothing is stopped."""

    feature: ClassVar[Feature] = Feature.BUDGET

    monthly_usd: float = Field(gt=0, le=1e9)
    """The budget in USD, before taxes."""
    notify: tuple[Email, ...] = Field(min_length=1, max_length=10)
    """E-mail addresses. 10 is AWS's limit."""
    spent_percent: tuple[Share, ...] = Field(default=(80.0, 100.0), max_length=5)
    """Shares of the budget: whoever is in `notify` is told when that much has been spent."""
    forecast_percent: tuple[Share, ...] = Field(default=(100.0,), max_length=5)
    """Shares of the budget: told when the month is likely to end there."""

    @field_validator("forecast_percent")
    @classmethod
    def _said(cls, forecast: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if not forecast and not info.data.get("spent_percent"):
            raise ValueError("with spent_percent empty, too, nobody would ever be told; name a share in one of them")
        return forecast
