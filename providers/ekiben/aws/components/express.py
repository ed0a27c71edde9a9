"""Endpoints on ECS Express: a cluster, roles and a log group. A service needs a bento, so the first deployment makes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pulumi_aws as aws

from ekiben import components
from ekiben.aws.backends import Backend, fargate, instances
from ekiben.aws.components.images import builder_of, pull_statements
from ekiben.aws.components.policies import Known, Statement, allow, asking, document, like
from ekiben.aws.components.program import LOG_DAYS
from ekiben.aws.components.resources import Services
from ekiben.aws.components.servers import Made, log_statements, measure_statements, own_name
from ekiben.aws.components.training import pass_to

if TYPE_CHECKING:
    from ekiben.aws.components.endpoint import Endpoint
    from ekiben.aws.components.storage import Storage

__all__ = ["balancing_trust", "on_express", "service_statements"]

TASKS, ECS = "ecs-tasks.amazonaws.com", "ecs.amazonaws.com"
# https://docs.aws.amazon.com/aws-managed-policy/latest/reference/AmazonECSInfrastructureRoleforExpressGatewayServices.html
BALANCING = "service-role/AmazonECSInfrastructureRoleforExpressGatewayServices"
# What ECS marks as its own of what it makes.
MANAGED = {"StringEquals": {"aws:ResourceTag/AmazonECSManaged": "true"}}


def on_express(endpoint: Endpoint, storage: Storage, backend: Backend) -> Made:
    """A cluster for the endpoint's services alone, the roles of its tasks and of its load balancer, and its log group."""
    name, spec, where, opts = endpoint.name, endpoint.spec, endpoint.where, endpoint.opts()
    service, count = own_name(endpoint, storage), instances(backend, spec)
    vcpu, memory_mib = fargate(spec.resources)
    log = aws.cloudwatch.LogGroup(name, retention_in_days=LOG_DAYS, tags=endpoint.tags, opts=opts)
    cluster = aws.ecs.Cluster(name, tags=endpoint.tags, opts=opts)
    capacity = aws.ecs.ClusterCapacityProviders(
        name, cluster_name=cluster.name, capacity_providers=["FARGATE"], opts=opts
    )
    runs = endpoint.serves(TASKS, storage)
    starts = endpoint.role(TASKS, "-starts")
    logs = Known(log.arn, like("logs", f"log-group:{name}"))
    started = endpoint.policy(
        starts,
        "starts",
        asking(
            lambda repository, log: [*pull_statements(repository), *log_statements(log)],
            builder_of(endpoint, endpoint.registry).arn,
            logs,
        ),
    )
    balances = aws.iam.Role(
        f"{name}-balances", assume_role_policy=balancing_trust(), tags=endpoint.tags, opts=endpoint.opts()
    )
    balanced = aws.iam.RolePolicyAttachment(
        f"{name}-balances",
        role=balances.name,
        policy_arn=endpoint.partition.apply(lambda partition: f"arn:{partition}:iam::aws:policy/{BALANCING}"),
        opts=endpoint.opts(),
    )
    Services(
        f"{name}-services",
        {"region": endpoint.region, "cluster_arn": cluster.arn, "service": service.value},
        opts=endpoint.opts(depends_on=[capacity, log, *endpoint.policies, started, balanced]),
    )
    endpoint.ref = cluster.arn
    made = {
        "service": service.value,
        "cluster_arn": cluster.arn,
        "execution_role_arn": starts.arn,
        "infrastructure_role_arn": balances.arn,
        "task_role_arn": runs.arn,
        "image_uri": endpoint.image_uri,
        "vcpu": vcpu,
        "memory_mib": memory_mib,
        "min_instances": count.least,
        "max_instances": count.most,
        "timeout_s": spec.timeout_s,
        "log_group": log.name,
        "variables": components.server_variables(endpoint, storage.uri),
        "subnet_ids": list(where.subnet_ids),
        "security_group_ids": list(where.security_group_ids),
    }
    uses = asking(
        lambda *told: [*service_statements(*told), *measure_statements()],
        Known(cluster.arn, like("ecs", f"cluster/{name}")),
        service,
        logs,
        *(Known(role.arn, like("iam", f"role/{name}-balances")) for role in (starts, runs, balances)),
    )
    return made, uses


def balancing_trust() -> str:
    """The policy of the role with which ECS makes load balancers. ECS does not say for which account; nobody else can pass it."""
    return document([{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": ECS}}])


def service_statements(
    cluster_arn: str, family: str, log_arn: str, starts_arn: str, runs_arn: str, balances_arn: str
) -> Sequence[Statement]:
    """Deploy task definitions of this family as services of this cluster, shift, retire and call."""
    _, partition, _, region, account, _ = cluster_arn.split(":", 5)
    cluster, ecs = cluster_arn.rpartition("/")[2], f"arn:{partition}:ecs:{region}:{account}"
    services = [f"{ecs}:{kind}/{cluster}/*" for kind in ("service", "service-deployment", "service-revision")]
    definitions = [f"{ecs}:task-definition/{family}:*"]
    actions = ("CreateExpress", "DeleteExpress", "DescribeExpress", "UpdateExpress")
    balancers = [f"arn:{partition}:elasticloadbalancing:{region}:{account}:loadbalancer/app/*"]
    return [
        allow(
            [*(f"ecs:{action}GatewayService" for action in actions), "ecs:DescribeServiceRevisions",
             "ecs:ListServiceDeployments", "ecs:StopServiceDeployment"],
            services,
        ),
        allow(["ecs:DeleteTaskDefinitions", "ecs:RegisterTaskDefinition"], definitions),
        allow(["ecs:TagResource"], [*definitions, services[0]]),
        allow(["ecs:DescribeTasks"], [f"{ecs}:task/{cluster}/*"]),
        allow(["ecs:ListTasks"], ["*"], {"ArnEquals": {"ecs:cluster": cluster_arn}}),
        # These know no narrower resource.
        allow(["ecs:DeregisterTaskDefinition", "ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"], ["*"]),
        allow(["iam:PassRole"], [starts_arn, runs_arn], pass_to(TASKS)),
        allow(["iam:PassRole"], [balances_arn], pass_to(ECS)),
        allow(["logs:FilterLogEvents"], [f"{log_arn}:*"]),
        allow(["elasticloadbalancing:DescribeLoadBalancerAttributes"], ["*"]),
        allow(["elasticloadbalancing:ModifyLoadBalancerAttributes"], balancers, MANAGED),
    ]  # fmt: skip
