"""Release and rollback: deploy at 0 %, test, shift all traffic at once, then point the aliases.

The traffic is the truth; the aliases follow it. Each step can be repeated, and a release or rollback that was interrupted
anywhere is finished by doing it again. At no moment is there no ready revision with traffic, where there was one before.
"""

from __future__ import annotations

from collections.abc import Callable

from ekiben.errors import EkibenError, ModelFailed, NotFound, SpecError
from ekiben.records import ModelVersion, Revision
from ekiben.release.check import smoke
from ekiben.runtime import Endpoint, Registry, Runtime

__all__ = ["release", "rollback"]

PREVIOUS = "previous"
KEPT_REVISIONS = 5
TURNS = 5
TAIL = "\nThe "  # Where a WorkloadError begins to quote its log.

OnStep = Callable[[str, str], object]


def release(
    runtime: Runtime,
    ref: str,
    *,
    endpoint: str = "",
    registry: str = "",
    who: str,
    why: str,
    on_step: OnStep = lambda step, detail: None,
) -> Revision:
    """Give the version `ref` ("model:3" or "model@alias") all traffic of `endpoint`; returns the revision that has it then.

    That is another version's where a release that ran at the same time came later. The endpoint's alias (champion) names the
    version that serves, `previous` the one before. Repeating is safe. `on_step` is told each step and a detail.

    Raises SpecError when the version is not approved or is another model's; ModelFailed when it does not start or fails its
    smoke test: the traffic is as it was then, and the candidate is gone.
    """
    target, models = runtime.endpoint(endpoint), runtime.registry(registry)
    version = models.version(ref)
    _check(target, version, who)
    champion = _alias(target)
    revision = _serve(target, version, on_step)
    if champion:
        _point(target, models, champion, who=who, why=why, on_step=on_step)
    _tidy(target, models, champion, on_step)
    return _serving(target) or revision


def rollback(
    runtime: Runtime,
    *,
    endpoint: str = "",
    registry: str = "",
    who: str,
    why: str,
    on_step: OnStep = lambda step, detail: None,
) -> Revision:
    """Give all traffic of `endpoint` back to the version before, tested as in a release; returns the revision that has it then.

    The aliases are swapped, so a second rollback goes forward again; repeating one that was interrupted finishes it. Raises
    NotFound when there is nothing to go back to, ModelFailed when the version before fails its smoke test: the traffic stays.
    """
    target, models = runtime.endpoint(endpoint), runtime.registry(registry)
    champion = _alias(target)
    if not champion:
        raise SpecError(
            f"The endpoint {target.part.name!r} serves {target.part.facts['model']}, one fixed version: there is no version "
            "before. Let its spec name an alias (model@champion)."
        )
    model = _model(target)
    now, before = _named(models, f"{model}@{champion}"), _named(models, f"{model}@{PREVIOUS}")
    serving = _serving(target)
    if now is None or serving is None:
        raise _nothing(target, "it has had no release yet")
    left: ModelVersion | None = now
    if before is not None and before.id == now.id:
        left = _left(models, now, champion)  # A rollback or release got as far as one alias: the audit knows the other.
    if serving.version not in (now.id, before.id if before else ""):
        # A release got as far as the traffic: the version before is still champion, and `previous` stays what it is.
        left = left if before is not None and before.id == now.id else None
        before = now
    elif before is None or left is None:
        raise _nothing(target, f"{now.id} is the first version that it serves")
    _check(target, before, who)
    revision = _serve(target, before, on_step)
    on_step("alias", f"{before.id} is {champion}")
    models.alias(before.id, champion, who=who, why=why)
    if left is not None:
        models.alias(left.id, PREVIOUS, who=who, why=why)
    _point(target, models, champion, who=who, why=why, on_step=on_step)
    return _serving(target) or revision


def _serve(target: Endpoint, version: ModelVersion, on_step: OnStep) -> Revision:
    """Deploy, test and shift; a candidate that fails is retired unless it has traffic already."""
    on_step("deploy", f"{version.id} on {target.part.name}, without traffic")
    try:
        revision = target.deploy(version)
        on_step("test", f"{revision.id} with the sample of {version.id}")
        smoke(target, revision, version)
    except ModelFailed as error:
        kept = _drop(target, version, on_step)
        raise ModelFailed(
            f"{target.part.provider}: cannot release {version.id} on {target.part.name!r}: {str(error).partition(TAIL)[0]}"
            + (" It has traffic already, and keeps it." if kept else " The traffic is as it was; the candidate is gone."),
            log_uri=error.log_uri, tail=error.tail,
        ) from error  # fmt: skip
    on_step("shift", f"all traffic to {revision.id}")
    target.shift({revision.id: 100.0})
    return revision


def _drop(target: Endpoint, version: ModelVersion, on_step: OnStep) -> bool:
    """Retire the version's revisions without traffic; is there one with traffic?"""
    mine = [revision for revision in target.revisions() if revision.version == version.id]
    for revision in mine:
        if not revision.weight:
            _retire(target, revision, on_step)
    return any(revision.weight for revision in mine)


def _point(target: Endpoint, models: Registry, champion: str, *, who: str, why: str, on_step: OnStep) -> None:
    """Point the aliases at what has the traffic, until it is so: releases that run at the same time meet here.

    `previous` first: a repetition after a crash in between finds the champion that it must name.
    """
    for _ in range(TURNS):
        serving = _serving(target)
        now = _named(models, f"{_model(target)}@{champion}")
        if serving is None or (now is not None and now.id == serving.version):
            return
        if now is not None:
            models.alias(now.id, PREVIOUS, who=who, why=why)
        on_step("alias", f"{serving.version} is {champion}")
        models.alias(serving.version, champion, who=who, why=why)


def _tidy(target: Endpoint, models: Registry, champion: str, on_step: OnStep) -> None:
    """Retire old revisions, but none that a rollback would need."""
    before = _named(models, f"{_model(target)}@{PREVIOUS}") if champion else None
    for revision in target.revisions()[KEPT_REVISIONS:]:
        if not revision.weight and (before is None or revision.version != before.id):
            _retire(target, revision, on_step)


def _retire(target: Endpoint, revision: Revision, on_step: OnStep) -> None:
    """What cannot be retired now does no harm, and is retired by a later release."""
    on_step("retire", revision.id)
    try:
        target.retire(revision.id)
    except EkibenError as error:
        on_step("retire", f"not now: {error}")


def _check(target: Endpoint, version: ModelVersion, who: str) -> None:
    serves = str(target.part.facts["model"])
    if not who.strip():
        raise SpecError("`who` is empty: the audit says who released what.")
    if version.model != _model(target) or ("@" not in serves and version.id != serves):
        raise SpecError(f"The endpoint {target.part.name!r} serves {serves}, not {version.id}.")
    if version.state == "approved":
        return
    remedy = {
        "pending": f"Approve it with: ekiben approve {version.id} --why REASON",
        "rejected": f"Approve it after all with: ekiben approve {version.id} --why REASON",
        "archived": "That is final: release another version",
    }[version.state]
    raise SpecError(f"{version.id} is {version.state}, and only an approved version can be released. {remedy}.")


def _model(target: Endpoint) -> str:
    return str(target.part.facts["model"]).partition("@")[0].partition(":")[0]


def _alias(target: Endpoint) -> str:
    """The alias that the endpoint serves; empty when it is a fixed version."""
    return str(target.part.facts["model"]).partition("@")[2]


def _serving(target: Endpoint) -> Revision | None:
    """The revision with the most traffic."""
    return max((found for found in target.revisions() if found.weight), key=lambda found: found.weight, default=None)


def _named(models: Registry, ref: str) -> ModelVersion | None:
    try:
        return models.version(ref)
    except NotFound:
        return None


def _left(models: Registry, now: ModelVersion, champion: str) -> ModelVersion | None:
    """The version that was champion before `now` became it, as the audit has it, unless nobody may go back to it."""
    for decision in reversed(models.audit(now.model)):
        if decision.what == f"alias {champion}" and decision.after == str(now.version):
            found = _named(models, f"{now.model}:{decision.before}") if decision.before else None
            return found if found is not None and found.state == "approved" else None
    return None


def _nothing(target: Endpoint, why: str) -> NotFound:
    return NotFound(
        target.part.provider, f"roll back {target.part.name!r}", f"{why}, so there is no version before",
        "Release another one with: ekiben release MODEL:VERSION",
    )  # fmt: skip
