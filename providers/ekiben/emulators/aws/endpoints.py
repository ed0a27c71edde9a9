"""SageMaker's endpoints that predict: models, configurations and endpoints in moto's tables, and what they run.

What moto makes InService at once is Creating until every instance answers /ping, and Failed, with the reason, where one does not.
An endpoint that is changed goes on with what it has until the new variants answer, and stays as it was where they do not.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from moto.core.utils import utcnow
from moto.sagemaker.models import FakeEndpointConfig, sagemaker_backends

from ekiben.emulators.aws import roles, sagemaker
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.hosts import Host
from ekiben.emulators.aws.images import Images

__all__ = ["Endpoints"]

INSTANCE_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9]+")
LOOK_S = 5.0


class Endpoints:
    """What runs the endpoints in moto's tables. `folder` is its own; `url` is the emulator's."""

    def __init__(self, folder: Path, url: str, images: Images, moto: Callable[[Call], Answer]) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
        self._folder, self._url, self._images, self._moto = folder, url, images, moto
        self._hosts: dict[str, Host] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        FakeEndpointConfig.validate_instance_type = _check_instance_type  # type: ignore[method-assign]
        threading.Thread(target=self._sweep, daemon=True, name="endpoints").start()

    def create_model(self, call: Call) -> Answer:
        name = str(call.json.get("ModelName"))
        backend = sagemaker_backends[call.account][call.region]
        if name in backend._models:
            raise _present(call, "model", name)
        roles.credentials(call.account, call.region, str(call.json.get("ExecutionRoleArn")), "sagemaker")
        answer = self._moto(call)
        if answer.status == 200:
            backend._models[name].enable_network_isolation = bool(call.json.get("EnableNetworkIsolation"))
        return answer

    def create_config(self, call: Call) -> Answer:
        asked, backend = call.json, sagemaker_backends[call.account][call.region]
        name = str(asked.get("EndpointConfigName"))
        if name in backend.endpoint_configs:
            raise _present(call, "endpoint configuration", name)
        shadows = asked.get("ShadowProductionVariants") or []
        backend.validate_production_variants(shadows)
        answer = self._moto(call)
        if answer.status == 200 and shadows:
            config: Any = backend.endpoint_configs[name]
            config.shadow_production_variants = shadows
        return answer

    def create(self, call: Call) -> Answer:
        name = str(call.json.get("EndpointName"))
        backend = sagemaker_backends[call.account][call.region]
        if name in backend.endpoints:
            raise _present(call, "endpoint", name)
        answer = self._moto(call)
        if answer.status == 200:
            record: Any = backend.endpoints[name]
            config = backend.endpoint_configs[record.endpoint_config_name].response_object
            sagemaker.configure(record, config)
            record.endpoint_status = "Creating"
            host = Host(record, call.account, call.region, self._folder / name, self._url, self._images)
            self._hosts[record.arn] = host
            host.change(config, lambda: None)
        return answer

    def update(self, call: Call) -> Answer:
        asked = call.json
        record, config = sagemaker.asked_of_update(call)
        if record.endpoint_status not in ("InService", "Failed"):
            raise Refused("ValidationException", f'Cannot update in-progress endpoint "{record.arn}".')
        record.endpoint_status, record.failure_reason = "Updating", None
        host = self._host(record, call)
        host.change(config, lambda: sagemaker.configure(record, config, asked))
        return Answer.of({"EndpointArn": record.arn})

    def shift(self, call: Call) -> Answer:
        """UpdateEndpointWeightsAndCapacities: weights count at once; instances come and go."""
        asked = call.json
        record: Any = sagemaker.known(call, "EndpointName", "endpoint")
        if record.endpoint_status != "InService":
            raise Refused("ValidationException", f'Cannot update in-progress endpoint "{record.arn}".')
        variants = {one["VariantName"]: one for one in record.production_variants}
        wanted = {str(one["VariantName"]): one for one in asked.get("DesiredWeightsAndCapacities") or ()}
        if unknown := sorted(set(wanted) - set(variants)):
            told = f'The variant name(s) "{", ".join(unknown)}" is/are not present within endpoint configuration'
            raise Refused("ValidationException", f'{told} "{record.endpoint_config_name}".')
        counts = {
            name: int(one["DesiredInstanceCount"]) for name, one in wanted.items() if "DesiredInstanceCount" in one
        }
        for name, one in wanted.items():
            if "DesiredWeight" in one:
                variants[name] |= dict.fromkeys(("CurrentWeight", "DesiredWeight"), float(one["DesiredWeight"]))
        record.last_modified_time = utcnow()
        if counts:
            for name, count in counts.items():
                variants[name]["DesiredInstanceCount"] = count
            record.endpoint_status = "Updating"
            self._host(record, call).resize(counts)
        return Answer.of({"EndpointArn": record.arn})

    def delete(self, call: Call) -> Answer:
        """DeleteEndpoint: it is gone when this returns, and so is what ran for it."""
        record: Any = sagemaker_backends[call.account][call.region].endpoints.get(str(call.json.get("EndpointName")))
        answer = self._moto(call)
        if answer.status == 200 and (host := self._hosts.pop(record.arn, None)):
            host.close()
        return answer

    def invoke(self, call: Call) -> Answer | None:
        """POST /endpoints/NAME/invocations. Answers that were set for a test (moto's own `/moto-api/static`) come from moto."""
        name = unquote(call.path.split("/")[2])
        record: Any = sagemaker_backends[call.account][call.region].endpoints.get(name)
        if record is None:
            raise Refused("ValidationError", f"Endpoint {name} of account {call.account} not found.")
        if sagemaker.answers_are_set(call, name):
            return None
        if record.endpoint_status not in ("InService", "Updating"):
            told = f"Endpoint {name} of account {call.account} is not in service: it is {record.endpoint_status}."
            raise Refused("ValidationError", told)
        return self._host(record, call).invoke(call)

    def reset(self) -> None:
        for host in list(self._hosts.values()):
            host.close()
        self._hosts.clear()

    def close(self) -> None:
        self._closing.set()
        self.reset()

    def _host(self, record: Any, call: Call) -> Host:
        """What runs the endpoint of a record; started now for one that CloudFormation has made."""
        with self._lock:
            if record.arn not in self._hosts:
                config = sagemaker_backends[call.account][call.region].describe_endpoint_config(
                    record.endpoint_config_name
                )
                host = Host(
                    record, call.account, call.region, self._folder / record.endpoint_name, self._url, self._images
                )
                host.restore(config)
                self._hosts[record.arn] = host
            return self._hosts[record.arn]

    def _sweep(self) -> None:
        while not self._closing.wait(LOOK_S):
            for host in list(self._hosts.values()):
                host.sweep()


def _present(call: Call, kind: str, name: str) -> Refused:
    arn = f"arn:aws:sagemaker:{call.region}:{call.account}:{kind.replace(' ', '-').removesuffix('uration')}/{name}"
    return Refused("ValidationException", f'Cannot create already existing {kind} "{arn}".')


def _check_instance_type(self: FakeEndpointConfig, instance_type: str) -> None:
    """Of moto's list most types that there are today are missing."""
    if not INSTANCE_TYPE.fullmatch(instance_type):
        raise Refused("ValidationException", f"Value '{instance_type}' at 'instanceType' failed to satisfy constraint")
