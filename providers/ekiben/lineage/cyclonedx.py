"""A version's account as a CycloneDX bill of materials: the model with its card, its data, its code and its packages."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ekiben import __version__
from ekiben.errors import IntegrityError, MissingDependency
from ekiben.lineage.account import part
from ekiben.lineage.lock import Pin
from ekiben.lineage.slices import label, numbers

__all__ = ["bill"]

BILLS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:ekiben:bill")
HASHES = {"sha256": "SHA_256", "sha384": "SHA_384", "sha512": "SHA_512"}


def bill(account: Mapping[str, Any], packages: Sequence[Pin]) -> dict[str, Any]:
    """The ML-BOM of a version (CycloneDX 1.6), checked against the schema: the same version gives the same document.

    The library writes no model cards and no descriptions of data, so that these are put in beside what it writes.
    Raises MissingDependency without cyclonedx-python-lib, IntegrityError when what was made is not valid.
    """
    try:
        from cyclonedx.model import bom, component, tool
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise MissingDependency("cyclonedx-python-lib", "lineage") from error

    model, data, code = _model(account), list(_data(account["data"])), list(_code(account["code"]))
    libraries = [_library(pin) for pin in packages]
    made = bom.Bom(
        components=[*data, *code, *libraries],
        serial_number=uuid.uuid5(BILLS, account["bento"]["digest"]),
        metadata=bom.BomMetaData(
            component=model,
            timestamp=datetime.fromisoformat(account["version"]["created_at"]),
            tools=tool.ToolRepository(
                components=[component.Component(name="ekiben", version=__version__, type=component.ComponentType.APPLICATION)]
            ),
        ),
    )  # fmt: skip
    made.register_dependency(model, [*data, *code, *libraries])
    written = json.loads(JsonV1Dot6(made).output_as_string())
    written["metadata"]["component"]["modelCard"] = _card(account)
    for one in written.get("components", ()):
        if one["type"] == "data":
            one["data"] = [
                {"type": "dataset", "name": one["name"], "contents": {"url": account["data"][one["name"]]["uri"]}}
            ]
    _check(written)
    return dict(written)


def _model(account: Mapping[str, Any]) -> Any:
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri, component

    name, _, number = account["version"]["id"].partition(":")
    about = {
        "state": account["version"]["state"], "run": account["run"]["id"], "by": account["run"].get("by", ""),
        "python": account["environment"].get("python", ""), "commit": account["code"].get("commit", ""),
    }  # fmt: skip
    return component.Component(
        name=name, version=number, bom_ref=account["version"]["id"],
        type=component.ComponentType.MACHINE_LEARNING_MODEL,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=account["bento"]["digest"])],
        external_references=[ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(account["bento"]["uri"]))],
        properties=_properties(about),
    )  # fmt: skip


def _data(data: Mapping[str, Any]) -> Iterable[Any]:
    from cyclonedx.model import HashAlgorithm, HashType, component

    for name, read in sorted(data.items()):
        files = read.get("files") or []
        about = {"uri": read["uri"], "rows": read.get("rows", ""), "files": len(files)}
        yield component.Component(
            name=name, version=read["sha256"], bom_ref=f"data:{name}", type=component.ComponentType.DATA,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=read["sha256"])], properties=_properties(about),
        )  # fmt: skip


def _code(code: Mapping[str, Any]) -> Iterable[Any]:
    from cyclonedx.model import HashAlgorithm, HashType, component

    if code.get("sha256"):
        about = {"uri": code["uri"], "commit": code.get("commit", ""), "dirty": str(bool(code.get("dirty"))).lower()}
        yield component.Component(
            name="training-code", version=code.get("commit") or code["sha256"], bom_ref="code",
            type=component.ComponentType.FILE,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=code["sha256"])], properties=_properties(about),
        )  # fmt: skip


def _library(pin: Pin) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType, component
    from packageurl import PackageURL

    # A package is several files, one for each platform: the lock says which they may be.
    hashes = [HashType(alg=HashAlgorithm[HASHES[kind]], content=value) for kind, value in pin.hashes if kind in HASHES]
    purl = PackageURL(type="pypi", name=pin.name, version=pin.version)
    return component.Component(
        name=pin.name, version=pin.version, bom_ref=str(purl), type=component.ComponentType.LIBRARY, purl=purl, hashes=hashes
    )  # fmt: skip


def _card(account: Mapping[str, Any]) -> dict[str, Any]:
    evaluation, run = account["evaluation"], account["run"]
    metrics = [{"type": name, "value": repr(value)} for name, value in sorted(evaluation["metrics"].items())]
    for row in evaluation["slices"]:
        metrics += [{"type": name, "value": repr(value), "slice": label(row)} for name, value in numbers(row).items()]
    given = {**part(run, "params"), **{f"seed.{name}": value for name, value in part(run, "seeds").items()}}
    card: dict[str, Any] = {
        "modelParameters": {"datasets": [{"ref": f"data:{name}"} for name in sorted(account["data"])]},
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "properties": [{"name": f"ekiben:param:{name}", "value": str(value)} for name, value in sorted(given.items())],
    }
    return card


def _properties(about: Mapping[str, Any]) -> list[Any]:
    from cyclonedx.model import Property

    return [Property(name=f"ekiben:{name}", value=str(value)) for name, value in about.items() if value != ""]


def _check(written: Mapping[str, Any]) -> None:
    """Against the schema, as strictly as the library can. Without its extra for that, what the library wrote stands."""
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(written))
    except MissingOptionalDependencyException:
        return
    if problem is not None:
        raise IntegrityError(
            "ekiben", "write the bill of materials", f"it would not be valid CycloneDX: {str(problem)[:300]}"
        )
