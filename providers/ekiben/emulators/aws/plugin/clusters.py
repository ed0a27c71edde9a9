"""Clusters of ECS, and what their tasks run on."""

from __future__ import annotations

from typing import Any

from ekiben.emulators.aws.plugin.kind import Aws, Kind, Props, retag

__all__ = ["KINDS"]


def _tags(tags: Props) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _create(aws: Aws, props: Props) -> str:
    made = aws.client("ecs").create_cluster(clusterName=props["name"], tags=_tags(aws.tags(props)))
    return str(made["cluster"]["clusterArn"])


def _told(aws: Aws, cluster: str) -> dict[str, Any] | None:
    there = aws.client("ecs").describe_clusters(clusters=[cluster], include=["TAGS"])["clusters"]
    return next((dict(one) for one in there if one["status"] == "ACTIVE"), None)


def _read(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = _told(aws, id)
    if told is None:
        return None
    tags = {tag["key"]: tag["value"] for tag in told.get("tags") or ()}
    return {"name": told["clusterName"], "arn": told["clusterArn"], "tags": tags}


def _update(aws: Aws, id: str, old: Props, new: Props) -> None:
    ecs = aws.client("ecs")
    retag(
        old.get("tagsAll", {}), aws.tags(new),
        lambda tags: ecs.tag_resource(resourceArn=id, tags=_tags(tags)),
        lambda keys: ecs.untag_resource(resourceArn=id, tagKeys=keys),
    )  # fmt: skip


def _delete(aws: Aws, id: str, props: Props) -> None:
    aws.client("ecs").delete_cluster(cluster=id)


def _set(aws: Aws, cluster: str, providers: list[str]) -> None:
    aws.client("ecs").put_cluster_capacity_providers(
        cluster=cluster, capacityProviders=providers, defaultCapacityProviderStrategy=[]
    )


def _provide(aws: Aws, props: Props) -> str:
    _set(aws, props["clusterName"], props.get("capacityProviders", []))
    return str(props["clusterName"])


def _provided(aws: Aws, id: str, props: Props) -> dict[str, Any] | None:
    told = _told(aws, id)
    if told is None or not told.get("capacityProviders"):
        return None
    return {"clusterName": told["clusterName"], "capacityProviders": told["capacityProviders"]}


def _provide_again(aws: Aws, id: str, old: Props, new: Props) -> None:
    _provide(aws, new)


def _provide_none(aws: Aws, id: str, props: Props) -> None:
    if _told(aws, id) is not None:
        _set(aws, id, [])


KINDS = [
    Kind(
        type="aws:ecs/cluster:Cluster",
        takes=frozenset({"name", "tags"}), fixed=frozenset({"name"}), named="name", name_chars=255, tagged=True, outputs=("arn",),
        create=_create, read=_read, update=_update, delete=_delete, adopt=lambda id: {"name": id.rpartition("/")[2]},
    ),
    Kind(
        type="aws:ecs/clusterCapacityProviders:ClusterCapacityProviders",
        takes=frozenset({"clusterName", "capacityProviders"}), fixed=frozenset({"clusterName"}),
        create=_provide, read=_provided, update=_provide_again, delete=_provide_none, adopt=lambda id: {"clusterName": id},
    ),
]  # fmt: skip
