"""A version's account as OpenLineage events: its run, with the data that it read and the bento that it made."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from ekiben import __version__
from ekiben.errors import MissingDependency, SpecError
from ekiben.lineage.account import part

__all__ = ["events"]

PRODUCER = f"urn:ekiben:{__version__}"
# Of the ids of runs, which OpenLineage wants as UUIDs: the same run is the same UUID, whoever exports it.
RUNS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:ekiben:run")


def events(account: Mapping[str, Any], *, namespace: str) -> list[dict[str, Any]]:
    """The START and the COMPLETE event of the run behind a version, as the library's own types write them.

    namespace: of the job, such as "shop/local". Inputs and the bento are named as OpenLineage's naming rules have it, by store and
    key. Raises SpecError for a version whose run did not record its times, MissingDependency without openlineage-python.
    """
    try:
        from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
        from openlineage.client.serde import Serde
    except ImportError as error:
        raise MissingDependency("openlineage-python", "lineage") from error

    run = account["run"]
    if not run.get("started_at") or not run.get("ended_at"):
        raise SpecError(
            f"{account['version']['id']} cannot be exported as OpenLineage, whose events have a time: its run recorded none. "
            "Train and register it again."
        )
    read = [
        InputDataset(*_named(data["uri"]), inputFacets=facets, facets=more)
        for data, facets, more in _inputs(account["data"], account["signature"])
    ]
    made = OutputDataset(*_named(account["bento"]["uri"]), facets=_bento(account))
    identity = str(uuid.uuid5(RUNS, f"{namespace}/{run['id']}"))
    job = Job(namespace, str(run.get("training") or account["version"]["id"].partition(":")[0]), facets=_job(account))
    stages: tuple[tuple[RunState, str, list[OutputDataset]], ...] = (
        (RunState.START, run["started_at"], []),
        (RunState.COMPLETE, run["ended_at"], [made]),
    )
    return [
        Serde.to_dict(
            RunEvent(
                eventType=stage, eventTime=time, producer=PRODUCER, job=job, inputs=read, outputs=outputs,
                run=Run(identity, facets=_run(account)),
            )
        )
        for stage, time, outputs in stages
    ]  # fmt: skip


def _run(account: Mapping[str, Any]) -> dict[str, Any]:
    from openlineage.client.facet_v2 import execution_parameters_run as parameters, processing_engine_run, tags_run

    given = {**part(account["run"], "params"), **{f"seed.{k}": v for k, v in part(account["run"], "seeds").items()}}
    name, _, release = str(account["environment"].get("python") or "Python").partition(" ")
    facts = {"run": account["run"]["id"], "by": account["run"].get("by", "")}
    return {
        "executionParameters": parameters.ExecutionParametersRunFacet(
            parameters=[parameters.ExecutionParameter(key=key, value=str(value)) for key, value in sorted(given.items())],
            producer=PRODUCER,
        ),
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=release or "unknown", name=name, producer=PRODUCER
        ),
        "tags": tags_run.TagsRunFacet(
            tags=[tags_run.TagsRunFacetFields(key, str(value), "EKIBEN") for key, value in facts.items() if value],
            producer=PRODUCER,
        ),
    }  # fmt: skip


def _job(account: Mapping[str, Any]) -> dict[str, Any]:
    from openlineage.client.facet_v2 import job_type_job, source_code_location_job

    code = account["code"]
    facets: dict[str, Any] = {
        "jobType": job_type_job.JobTypeJobFacet("BATCH", "EKIBEN", jobType="TRAINING", producer=PRODUCER)
    }
    if code.get("uri"):
        facets["sourceCodeLocation"] = source_code_location_job.SourceCodeLocationJobFacet(
            type="git" if code.get("commit") else "archive", url=code["uri"], path=account["job"].get("entry"),
            version=code.get("commit") or code.get("sha256"), producer=PRODUCER,
        )  # fmt: skip
    return facets


def _inputs(
    data: Mapping[str, Any], signature: Mapping[str, Any]
) -> Iterable[tuple[Mapping[str, Any], dict[str, Any], dict[str, Any]]]:
    from openlineage.client.facet_v2 import dataset_version_dataset, datasource_dataset, input_statistics_input_dataset

    for name, read in sorted(data.items()):
        files = read.get("files") or []
        size = sum(int(file.get("bytes", 0)) for file in files)
        measured = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            rowCount=read.get("rows"), size=size, fileCount=len(files), producer=PRODUCER
        )
        facets = {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(
                str(read.get("sha256", "")), producer=PRODUCER
            ),
            "dataSource": datasource_dataset.DatasourceDatasetFacet(name=name, uri=read["uri"], producer=PRODUCER),
        }
        # Of several inputs nobody has said which column is in which.
        if len(data) == 1 and (columns := _columns(signature, "keys", "columns", "target")):
            facets["schema"] = columns
        yield read, {"inputStatistics": measured}, facets


def _bento(account: Mapping[str, Any]) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_type_dataset, dataset_version_dataset, tags_dataset

    metrics = account["evaluation"]["metrics"]
    facets = {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(account["bento"]["digest"], producer=PRODUCER),
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet("MODEL", producer=PRODUCER),
        "tags": tags_dataset.TagsDatasetFacet(
            tags=[
                tags_dataset.TagsDatasetFacetFields("version", account["version"]["id"], "EKIBEN"),
                *(tags_dataset.TagsDatasetFacetFields(f"metric.{name}", repr(value), "EKIBEN")
                  for name, value in sorted(metrics.items())),
            ],
            producer=PRODUCER,
        ),
    }  # fmt: skip
    if columns := _columns(account["signature"], "columns"):
        facets["schema"] = columns
    return facets


def _columns(signature: Mapping[str, Any], *kinds: str) -> Any:
    """The names that the signature has under these keys, as a schema of names; None without any."""
    from openlineage.client.facet_v2 import schema_dataset

    fields = []
    for kind in kinds:
        told = signature.get(kind)
        names = told if isinstance(told, list) else [told] if told else []
        fields += [schema_dataset.SchemaDatasetFacetFields(str(name), description=kind) for name in names]
    return schema_dataset.SchemaDatasetFacet(fields=fields, producer=PRODUCER) if fields else None


def _named(uri: str) -> tuple[str, str]:
    """Namespace and name of what lies at a URI: the store, and the path in it."""
    parts = urlsplit(uri)
    if parts.scheme == "file" or not parts.scheme:
        return "file", unquote(parts.path).rstrip("/") or "/"
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"
