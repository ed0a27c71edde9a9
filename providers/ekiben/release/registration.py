"""From a run that has succeeded to a version in the registry: its model goes into the endpoint's bento."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ekiben.errors import AlreadyExists, NotFound, SpecError
from ekiben.packing.assemble import pack
from ekiben.records import ModelVersion, Run
from ekiben.runtime import Runtime, Storage

__all__ = ["register"]

# Of the run, what its lineage does not say; the run itself may be forgotten before its model is.
KEPT = ("training", "submitted_at", "started_at", "ended_at", "model_uri", "output_uri", "log_uri")


def register(runtime: Runtime, run: Run, *, endpoint: str = "", registry: str = "", who: str = "") -> ModelVersion:
    """Pack the run's model with the bento of `endpoint` and register it in `registry`; repeating returns the same version.

    Empty names take the only one there is; `who` is by default whom the run's lineage names. Raises SpecError for a run without
    a model or a sample, IntegrityError when the bento's template is not the one that was built.
    """
    if run.state != "succeeded":
        raise SpecError(
            f"The run {run.id!r} is {run.state}: only the model of a run that has succeeded can be registered."
        )
    models, part = runtime.registry(registry), runtime.endpoint(endpoint).part
    template_uri, template_sha256 = str(part.facts["template_uri"]), str(part.facts["template_sha256"])
    store = runtime.storage_of(template_uri)
    signature = _signature(runtime, run)
    with tempfile.TemporaryDirectory(prefix="ekiben-register-") as private:
        folder = Path(private)
        store.download(store.key(template_uri), folder / "template.tar")
        _download(runtime.storage_of(run.model_uri), run.model_uri, folder / "model")
        bento = pack(folder / "template.tar", folder / "model", signature, sha256=template_sha256)
        key = f"bentos/{bento.sha256}.tar"
        _keep(store, key, bento.path)
    return models.register(
        ModelVersion(
            model=run.model or run.training,
            version=0,
            key=run.id,
            digest=bento.sha256,
            bento_uri=store.uri(key),
            created_at="",
            created_by=who or str(run.lineage.get("by") or f"run {run.id}"),
            run_id=run.id,
            metrics=run.metrics,
            signature={name: value for name, value in signature.items() if name != "sample"},
            sample=signature["sample"],
            lineage={
                **run.lineage,
                "bento": {"uri": template_uri, "sha256": template_sha256},
                "run": {name: getattr(run, name) for name in KEPT},
            },
        )
    )


def _signature(runtime: Runtime, run: Run) -> dict[str, Any]:
    store = runtime.storage_of(run.output_uri)
    where = f"{run.output_uri.rstrip('/')}/signature.json"
    try:
        signature = json.loads(store.get(store.key(where)))
    except NotFound:
        raise SpecError(
            f"The run {run.id!r} wrote no signature.json: let the job write it to EKIBEN_OUTPUT_DIR."
        ) from None
    except ValueError as error:
        raise SpecError(f"{where} is not JSON: {error}.") from error
    sample = signature.get("sample") if isinstance(signature, dict) else None
    if not isinstance(sample, dict) or not {"request", "response"} <= set(sample):
        raise SpecError(
            f"{where} has no sample to test a release with: let the job write "
            '{"columns": [...], "sample": {"route": "predict", "request": {...}, "response": ...}}.'
        )
    return dict(signature)


def _download(store: Storage, uri: str, folder: Path) -> None:
    prefix = store.key(f"{uri.rstrip('/')}/")
    folder.mkdir()
    for found in store.list(prefix):
        store.download(found.key, folder / found.key.removeprefix(prefix))


def _keep(store: Storage, key: str, path: Path) -> None:
    """The bento's name is its digest: what is there already is the same, unless its size says that it is damaged."""
    try:
        store.put_if_absent(key, path)
    except AlreadyExists:
        if store.head(key).size_bytes != path.stat().st_size:
            store.put(key, path)
