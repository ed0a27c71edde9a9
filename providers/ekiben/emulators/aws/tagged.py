"""The Resource Groups Tagging API knows what moto leaves out of it: repositories, projects, schedule groups, rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moto.codebuild.models import codebuild_backends
from moto.core.resource_tagging import TaggedResource
from moto.ecr.models import ecr_backends
from moto.events.models import events_backends
from moto.resourcegroupstaggingapi import models
from moto.scheduler.models import scheduler_backends

__all__ = ["mend"]


class _Others:
    """What moto's own backends do not yield, of one account and region."""

    def __init__(self, account: str, region: str) -> None:
        self._account, self._region = account, region

    def iter_tagged_resources(self) -> Iterator[TaggedResource]:
        def of(backends: Any) -> Any:
            return backends[self._account][self._region]

        for repository in list(of(ecr_backends).repositories.values()):
            found = of(ecr_backends).tagger.get_tag_dict_for_resource(repository.arn)
            yield TaggedResource(repository.arn, found, "ecr:repository")
        for project in list(of(codebuild_backends).codebuild_projects.values()):
            found = {tag["key"]: tag["value"] for tag in project.tags or ()}
            yield TaggedResource(project.project_metadata["arn"], found, "codebuild:project")
        for group in list(of(scheduler_backends).schedule_groups.values()):
            found = of(scheduler_backends).tagger.get_tag_dict_for_resource(group.arn)
            yield TaggedResource(group.arn, found, "scheduler:schedule-group")
        for bus in list(of(events_backends).event_buses.values()):
            for rule in list(bus.rules.values()):
                found = of(events_backends).tagger.get_tag_dict_for_resource(rule.arn)
                yield TaggedResource(rule.arn, found, "events:rule")


def mend() -> None:
    """Have moto's tagging API list these, too."""
    plainly = models.iter_taggable_backends

    def taggable(account_id: str, region_name: str) -> Iterator[Any]:
        yield from plainly(account_id, region_name)
        yield _Others(account_id, region_name)

    models.iter_taggable_backends = taggable
