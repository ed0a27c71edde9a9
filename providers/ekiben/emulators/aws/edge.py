"""The HTTP edge of the emulated AWS: what moto lacks or only pretends is answered here, all else by moto.

Nothing is kept here: what an addition makes or changes is in moto's own tables, and moto answers for it afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from moto.core.config import default_user_config
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from ekiben.emulators.aws import buckets, budgets, events, express, metrics, policies, provisioned, sagemaker, tagged
from ekiben.emulators.aws.alarms import Alarms
from ekiben.emulators.aws.authority import Authority
from ekiben.emulators.aws.builds import Builds
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.clock import Clock
from ekiben.emulators.aws.endpoints import Endpoints
from ekiben.emulators.aws.express import Express
from ekiben.emulators.aws.function_urls import PREFIX, Urls
from ekiben.emulators.aws.functions import Functions
from ekiben.emulators.aws.images import Images
from ekiben.emulators.aws.training import Jobs
from ekiben.emulators.aws.versions import Changes

__all__ = ["Edge"]

Addition = Callable[[Call], Answer | None]


class Edge:
    """A WSGI application: moto with additions. An addition that answers None leaves the request to moto.

    iam: whoever asks has to be allowed to.
    """

    def __init__(self, state_dir: Path, url: str, *, iam: bool = False) -> None:
        self._authority = Authority() if iam else None
        # Policies of AWS's own can be attached.
        default_user_config["iam"]["load_aws_managed_policies"] = True
        policies.obey()
        buckets.mend()
        tagged.mend()
        metrics.mend()
        self._moto = DomainDispatcherApplication(create_backend_app)
        images = Images(state_dir / "images")
        self._builds = Builds(state_dir / "builds", images.folder, url, self.moto)
        self._functions = Functions(state_dir / "functions", url, images)
        self._urls = Urls(self._functions, url, self.moto)
        events.connect(self._functions)
        self._clock = Clock(self._functions)
        self._alarms = Alarms(self._functions)
        self._jobs = Jobs(state_dir / "training", url, self.moto)
        self._endpoints = Endpoints(state_dir / "endpoints", url, images, self.moto)
        self._express = Express(state_dir / "express", url, images)
        self._actions: dict[tuple[str, str], Addition] = {
            ("budgets", "CreateBudget"): partial(budgets.create, self.moto),
            ("budgets", "UpdateBudget"): budgets.update,
            ("budgets", "ListTagsForResource"): budgets.list_tags,
            ("budgets", "TagResource"): budgets.tag,
            ("budgets", "UntagResource"): budgets.untag,
            ("codebuild", "BatchGetBuilds"): self._builds.get,
            ("codebuild", "StartBuild"): self._builds.start,
            ("codebuild", "StopBuild"): self._builds.stop,
            ("codebuild", "UpdateProject"): self._builds.update_project,
            ("sagemaker", "CreateTrainingJob"): self._jobs.create,
            ("sagemaker", "StopTrainingJob"): self._jobs.stop,
            ("ecr", "PutImage"): images.put,
            **{("ecs", name): addition for name, addition in self._express.actions.items()},
            ("sagemaker", "CreateModel"): self._endpoints.create_model,
            ("sagemaker", "CreateEndpointConfig"): self._endpoints.create_config,
            ("sagemaker", "CreateEndpoint"): self._endpoints.create,
            ("sagemaker", "UpdateEndpoint"): self._endpoints.update,
            ("sagemaker", "UpdateEndpointWeightsAndCapacities"): self._endpoints.shift,
            ("sagemaker", "DeleteEndpoint"): self._endpoints.delete,
            ("sagemaker", "UpdateModelPackage"): partial(sagemaker.update_model_package, self.moto),
            ("sagemaker", "DeleteModelPackage"): sagemaker.delete_model_package,
            ("sagemaker", "DeleteModelPackageGroup"): sagemaker.delete_model_package_group,
        }
        changes = Changes(self.moto)
        self._routes: list[tuple[str, str, re.Pattern[str], Addition]] = [
            ("s3", "GET", re.compile(r"/[^/]+/?"), partial(buckets.show_notifications, self.moto)),
            ("sagemaker", "POST", re.compile(r"/endpoints/[^/]+/invocations"), self._endpoints.invoke),
            ("lambda", "POST", re.compile(r"/2015-03-31/functions/[^/]+/invocations"), self._functions.invoke),
            ("lambda", "PUT", re.compile(r"/2015-03-31/functions/[^/]+/(?:configuration|code)"), changes.answer),
            ("lambda", "POST", re.compile(r"/2015-03-31/functions/[^/]+/versions"), changes.answer),
            ("lambda", "POST", re.compile(r"/2021-10-31/functions/[^/]+/url"), self._urls.create),
            *(("lambda", method, provisioned.PATH, provisioned.answer) for method in ("DELETE", "GET", "PUT")),
            ("lambda", "PUT", re.compile(r"/2021-10-31/functions/[^/]+/url"), self._urls.update),
        ]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        call = Call(environ)
        try:
            self._check(call)
            answer = self._answer(call)
        except Refused as refused:
            answer = refused.answer()
        if answer is None:
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        headers = [*answer.headers.items(), ("Content-Length", str(len(answer.body)))]
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", headers)
        return [answer.body]

    def moto(self, call: Call) -> Answer:
        """What moto answers."""
        assert call.body is not None  # read now, so that it is there afterwards
        said: list[Any] = []
        chunks = self._moto(call.environ, lambda status, headers, *_: said.extend((status, headers)))
        body = b"".join(chunks)
        headers = {name: value for name, value in said[1] if name.lower() != "content-length"}
        return Answer(status=int(said[0].split()[0]), headers=headers, body=body)

    def reset(self) -> None:
        """Everything gone, and nothing left running, as in a new account."""
        self._jobs.close()
        self._functions.reset()
        self._builds.reset()
        self._endpoints.reset()
        self._express.reset()
        moto_api_backend.reset()

    def close(self) -> None:
        """End what runs for the emulator."""
        self._clock.close()
        self._alarms.close()
        self._jobs.close()
        self._builds.reset()
        self._endpoints.close()
        self._express.reset()
        self._functions.close()

    def _check(self, call: Call) -> None:
        """Raises Refused for what its caller may not do. Moto's own calls are no service's, and a load balancer is open."""
        if self._authority is None or call.path.startswith(("/moto-api", express.PREFIX)):
            return
        if not call.path.startswith(PREFIX):
            self._authority.check(call)
        elif asks := self._urls.asks(call):
            self._authority.check(call, asks)

    def _answer(self, call: Call) -> Answer | None:
        if call.path.startswith(PREFIX):
            return self._urls.answer(call)
        if call.path.startswith(express.PREFIX):
            return self._express.answer(call)
        if (call.method, call.path) == ("POST", "/moto-api/reset"):
            self.reset()
            return Answer.of({"status": "ok"})
        if addition := self._actions.get((call.service, call.action)):
            return addition(call)
        for service, method, path, addition in self._routes:
            if call.service == service and call.method == method and path.fullmatch(call.path):
                return addition(call)
        return None
