"""The Resource Groups Tagging API knows what moto leaves out of it: repositories, projects, schedule groups, rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moto.codebuild.models import codebuild_backends
from moto.core.resource_tagging import TaggedResource, make_tag_matcher, match_resource_type
from moto.ecr.models import ecr_backends
from moto.events.models import events_backends
from moto.resourcegroupstaggingapi.models import ResourceGroupsTaggingAPIBackend
from moto.scheduler.models import scheduler_backends

__all__ = ["mend"]


def _others(account: str, region: str) -> Iterator[TaggedResource]:
    def of(backends: Any) -> Any:
        return backends[account][region]

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
    plainly = ResourceGroupsTaggingAPIBackend._get_resources_generator

    def listed(
        self: Any, tag_filters: Any = None, resource_type_filters: Any = None, resource_arn_list: Any = None
    ) -> Iterator[TaggedResource]:
        yield from plainly(self, tag_filters, resource_type_filters, resource_arn_list)
        matches = make_tag_matcher(tag_filters)
        for one in _others(self.account_id, self.region_name):
            kind = match_resource_type(one.resource_type, resource_type_filters)
            if one.tags and kind and matches(one.tags) and (not resource_arn_list or one.arn in resource_arn_list):
                yield one

    ResourceGroupsTaggingAPIBackend._get_resources_generator = listed  # type: ignore[method-assign]
