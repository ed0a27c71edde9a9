"""One of SageMaker's endpoints: the fleets of its variants, and which of them a request goes to."""

from __future__ import annotations

import http.client
import json
import logging
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moto.core.utils import utcnow
from moto.sagemaker.models import FakeEndpoint, sagemaker_backends

from ekiben.aws.backends import BACKENDS
from ekiben.emulators.aws import metrics, roles
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.containers import Reply
from ekiben.emulators.aws.fleets import Busy, Fleet, Gone, Start, StartFailed
from ekiben.emulators.aws.images import Images, NoImage

__all__ = ["Host"]

# Whether it is serverless -> how large a request may be.
BODY_BYTES = {one.name == "sagemaker-serverless": one.request_bytes for one in BACKENDS if "sagemaker" in one.name}
CUSTOM, TARGET = "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Target-Variant"

logger = logging.getLogger("ekiben.emulators.aws")


class Host:
    """One endpoint."""

    def __init__(self, record: FakeEndpoint, account: str, region: str, folder: Path, url: str, images: Images) -> None:
        self._record: Any = record
        self._account, self._region, self._folder, self._url, self._images = account, region, folder, url, images
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._fleets: dict[str, tuple[str, Fleet]] = {}
        self._shadows: dict[str, tuple[str, Fleet]] = {}
        self._shares: dict[str, float] = {}

    def change(self, config: Mapping[str, Any], done: Callable[[], None]) -> None:
        """Have the variants of a configuration, in the background; `done` puts it into the record when they answer."""
        self._behind(lambda: self._change(config, done))

    def restore(self, config: Mapping[str, Any]) -> None:
        """Have the variants of a configuration, now. Raises Refused."""
        try:
            with self._lock:
                self._change(config, lambda: None)
        except (StartFailed, NoImage) as error:
            raise Refused("ModelNotReadyException", str(error), 429) from error

    def resize(self, counts: Mapping[str, int]) -> None:
        def work() -> None:
            for name, count in counts.items():
                self._fleets[name][1].resize(count, self._closing)
                for variant in self._record.production_variants:
                    if variant["VariantName"] == name:
                        variant["CurrentInstanceCount"] = count

        self._behind(work)

    def invoke(self, call: Call) -> Answer:
        """Raises Refused."""
        while True:
            try:
                return self._asked(call, call.header(TARGET) or self._chosen())
            except Gone:  # changed this very moment: what is there now answers
                if self._closing.is_set():
                    raise Refused("ValidationError", f"Endpoint {self._record.endpoint_name} not found.") from None

    def _asked(self, call: Call, variant: str) -> Answer:
        body = call.body
        if variant not in self._fleets:
            raise Refused(
                "ValidationError", f"Variant {variant} was not found for endpoint {self._record.endpoint_name}."
            )
        fleet = self._fleets[variant][1]
        if len(body) > BODY_BYTES[fleet.start.serverless]:
            raise Refused("ValidationError", f"The body has {len(body)} bytes, which is too much.", 413)
        kept = {
            "Content-Type": call.environ.get("CONTENT_TYPE", ""),
            "Accept": call.header("Accept"),
            CUSTOM: call.header(CUSTOM),
        }
        headers = {name: value for name, value in kept.items() if value}
        self._mirror(body, headers)
        began = time.monotonic()
        try:
            reply = fleet.ask("POST", "/invocations", headers, body, self._closing)
        except Busy as error:
            raise Refused("ThrottlingException", "Rate exceeded", 429) from error
        except StartFailed as error:
            raise Refused("ModelNotReadyException", str(error), 429) from error
        except (OSError, http.client.HTTPException) as error:
            what = "did not answer in time" if isinstance(error, TimeoutError) else "closed the connection"
            self._count(variant, 500, began)
            return self._failed(variant, 0, f"The container of {variant} {what}.")
        self._count(variant, reply[0], began)
        return self._answered(variant, reply)

    def _count(self, variant: str, status: int, began: float) -> None:
        """For CloudWatch: https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html."""
        where = {"EndpointName": self._record.endpoint_name, "VariantName": variant}
        values = {"Invocations": (1.0, "None"), "ModelLatency": ((time.monotonic() - began) * 1e6, "Microseconds")}
        for kind in (4, 5):
            values[f"Invocation{kind}XXErrors"] = (float(status // 100 == kind), "None")
        metrics.count(self._account, self._region, "AWS/SageMaker", [where], values)

    def sweep(self) -> None:
        for _, fleet in (*self._fleets.values(), *self._shadows.values()):
            fleet.sweep()

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            fleets = [fleet for _, fleet in (*self._fleets.values(), *self._shadows.values())]
            self._fleets, self._shadows = {}, {}
        for fleet in fleets:
            fleet.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _behind(self, work: Callable[[], None]) -> None:
        """In a thread; the record says afterwards how it went."""

        def run() -> None:
            try:
                with self._lock:
                    work()
                status, why = "InService", ""
            except (StartFailed, Refused, NoImage) as error:
                status, why = "InService" if self._fleets else "Failed", str(error)
            except Exception as error:
                logger.exception("the endpoint %s", self._record.endpoint_name)
                status, why = "InService" if self._fleets else "Failed", str(error)
            self._record.failure_reason = why or None
            self._record.last_modified_time = utcnow()
            self._record.endpoint_status = status

        threading.Thread(target=run, daemon=True, name=f"endpoint {self._record.endpoint_name}").start()

    def _change(self, config: Mapping[str, Any], done: Callable[[], None]) -> None:
        fresh: list[Fleet] = []
        try:
            production = self._wanted(config["ProductionVariants"], self._fleets, fresh)
            shadows = self._wanted(config.get("ShadowProductionVariants") or (), self._shadows, fresh)
            for fleet in fresh:
                fleet.fill(self._closing)
        except BaseException:
            for fleet in fresh:
                fleet.kill()
            raise
        before = [fleet for _, fleet in (*self._fleets.values(), *self._shadows.values())]
        self._fleets, self._shadows = production, shadows
        self._shares = {
            one["VariantName"]: float(one.get("InitialVariantWeight", 1.0))
            for one in config.get("ShadowProductionVariants") or ()
        }
        done()
        kept = [fleet for _, fleet in (*production.values(), *shadows.values())]
        for fleet in before:
            if fleet not in kept:
                fleet.drain()

    def _wanted(
        self, variants: Any, there: Mapping[str, tuple[str, Fleet]], fresh: list[Fleet]
    ) -> dict[str, tuple[str, Fleet]]:
        """Name -> the fleet of each variant: one that is there and just so, or a new one, which is added to `fresh`."""
        found: dict[str, tuple[str, Fleet]] = {}
        for variant in variants:
            name = str(variant["VariantName"])
            model: Any = sagemaker_backends[self._account][self._region].describe_model(variant["ModelName"])
            same = {
                key: value
                for key, value in variant.items()
                if key not in ("InitialVariantWeight", "InitialInstanceCount")
            }
            key = json.dumps([same, model.response_object], sort_keys=True, default=str)
            if name in there and there[name][0] == key:
                found[name] = there[name]
                continue
            fleet = Fleet(self._start(variant, model), int(variant.get("InitialInstanceCount") or 1))
            fresh.append(fleet)
            found[name] = (key, fleet)
        return found

    def _start(self, variant: Mapping[str, Any], model: Any) -> Start:
        """Raises NoImage, Refused."""
        container = model.primary_container or (model.containers or [{}])[0]
        serverless = variant.get("ServerlessConfig") or {}
        isolated = model.enable_network_isolation
        keys = roles.credentials(self._account, self._region, model.execution_role_arn, "sagemaker")
        return Start(
            name=str(variant["VariantName"]), image=self._images.pull(str(container.get("Image")), model.execution_role_arn),
            role=model.execution_role_arn,
            environment={str(name): str(value) for name, value in (container.get("Environment") or {}).items()},
            keys={} if isolated else keys, url=self._url, region=self._region, account=self._account, folder=self._folder,
            log_group=f"/aws/sagemaker/Endpoints/{self._record.endpoint_name}", model_data=str(container.get("ModelDataUrl") or ""),
            serverless=bool(serverless), most=int(serverless.get("MaxConcurrency", 0)),
        )  # fmt: skip

    def _chosen(self) -> str:
        """A variant by the weights. Raises Refused where none has any."""
        weights = {one["VariantName"]: one.get("CurrentWeight", 0.0) for one in self._record.production_variants}
        weights = {name: weight for name, weight in weights.items() if weight > 0 and name in self._fleets}
        if not weights:
            raise Refused("ValidationError", f"No variant of endpoint {self._record.endpoint_name} has a weight.")
        which = random.choices(list(weights), list(weights.values()))  # noqa: S311 - which variant answers is no secret
        return str(which[0])

    def _mirror(self, body: bytes, headers: Mapping[str, str]) -> None:
        """A copy of a share of the requests for the shadow variant, whose answers nobody gets."""
        total = sum(float(one.get("CurrentWeight", 0.0)) for one in self._record.production_variants) or 1.0
        for name, (_, fleet) in self._shadows.items():
            if random.random() < self._shares.get(name, 1.0) / total:  # noqa: S311
                threading.Thread(
                    target=self._shadowed, args=(fleet, body, dict(headers)), daemon=True, name="shadow"
                ).start()

    def _shadowed(self, fleet: Fleet, body: bytes, headers: Mapping[str, str]) -> None:
        try:
            fleet.ask("POST", "/invocations", headers, body, self._closing)
        except (Busy, Gone, StartFailed, OSError, http.client.HTTPException) as error:
            logger.info("the shadow variant %s: %s", fleet.start.name, error)

    def _answered(self, variant: str, reply: Reply) -> Answer:
        status, headers, body = reply
        if status >= 400:
            return self._failed(variant, status, body.decode("utf-8", "replace"))
        given = {name.lower(): value for name, value in headers}
        kept = {"Content-Type": given.get("content-type", ""), CUSTOM: given.get(CUSTOM.lower(), "")}
        return Answer(
            headers={
                "x-Amzn-Invoked-Production-Variant": variant,
                **{name: value for name, value in kept.items() if value},
            },
            body=body,
        )

    def _failed(self, variant: str, status: int, said: str) -> Answer:
        """ModelError, with what the container has said."""
        kind = "client" if 400 <= status < 500 else "server"
        group = f"/aws/sagemaker/Endpoints/{self._record.endpoint_name}"
        message = (
            f'Received {kind} error ({status}) from {variant} with message "{said}". See {group} in CloudWatch Logs.'
        )
        told = {
            "__type": "ModelError", "Message": message, "OriginalStatusCode": status, "OriginalMessage": said,
            "LogStreamArn": f"arn:aws:logs:{self._region}:{self._account}:log-group:{group}",
        }  # fmt: skip
        return Answer.of(told, 424, x_amzn_ErrorType="ModelError")
