"""Lambda: functions that run their own code, versions and aliases that are obeyed, asynchronous events that are tried again.

Python functions from a zip run, and images that were built here. What a function itself asks of AWS goes to the emulator, with its
role's credentials.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import random
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
from moto.awslambda.models import LambdaFunction, lambda_backends
from moto.core.exceptions import JsonRESTError, ServiceException
from moto.sts.models import sts_backends

from ekiben.emulators.aws import log_streams, roles, versions
from ekiben.emulators.aws.call import Answer, Call, Refused
from ekiben.emulators.aws.images import Image, Images, NoImage
from ekiben.emulators.aws.metrics import count, lambda_dimensions
from ekiben.emulators.aws.policies import service_may
from ekiben.emulators.aws.workers import Code, Outcome, Workers
from ekiben.errors import EkibenError

__all__ = ["Functions"]

SYNC_BYTES, ASYNC_BYTES = 6 * 2**20, 2**20  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
# Lambda waits one minute and then two; nobody who develops does.
RETRY_PAUSES_S = (1.0, 2.0)
EVENT_THREADS = 16
# What a function's role has to be allowed for its dead letters and destinations, by the service that they go to.
SENDS = {
    "sqs": "sqs:SendMessage",
    "sns": "sns:Publish",
    "lambda": "lambda:InvokeFunction",
    "events": "events:PutEvents",
}

logger = logging.getLogger("ekiben.emulators.aws")


class Functions:
    """What runs the functions in moto's tables. `folder` is its own; `url` is the emulator's."""

    def __init__(self, folder: Path, url: str, images: Images) -> None:
        self._url, self._images = url, images
        self.workers = Workers(folder)
        self._credentials: dict[str, dict[str, str]] = {}
        self._events = ThreadPoolExecutor(EVENT_THREADS, thread_name_prefix="event")
        self._closing = threading.Event()

        def run(function: LambdaFunction, event: Any = None) -> tuple[str, bool, str]:
            """For what moto itself delivers: SNS, SQS, S3's direct notifications."""
            outcome = self.run(function, event.encode() if isinstance(event, str) else json.dumps(event or {}).encode())
            return outcome.payload.decode("utf-8", "replace"), bool(outcome.error), outcome.log

        LambdaFunction._invoke_lambda = run  # type: ignore[assignment, method-assign]
        _keep_what_moto_drops()
        versions.keep(images)

    def invoke(self, call: Call) -> Answer:
        """POST /2015-03-31/functions/NAME/invocations."""
        name = unquote(call.path.split("/")[3])
        kind = call.header("X-Amz-Invocation-Type") or "RequestResponse"
        if len(call.body) > (ASYNC_BYTES if kind == "Event" else SYNC_BYTES):
            raise Refused("RequestTooLargeException", f"Request must be smaller than {SYNC_BYTES} bytes", 413)
        payload = call.body or b"{}"
        try:
            json.loads(payload)
        except ValueError as error:
            raise Refused(
                "InvalidRequestContentException", f"Could not parse request body into json: {error}"
            ) from error
        function = self.resolve(call.account, call.region, name, call.query.get("Qualifier"))
        executed = {"X-Amz-Executed-Version": str(function.version)}
        if kind == "DryRun":
            return Answer(status=204, headers=executed)
        asked = _qualifier(name, call.query.get("Qualifier", ""))
        if kind == "Event":
            request_id = self._deliver(function, payload, qualifier=asked)
            return Answer(status=202, headers={**executed, "X-Amzn-RequestId": request_id})
        outcome = self.run(function, payload, asked)
        headers = {**executed, "Content-Type": "application/json", "X-Amzn-RequestId": outcome.request_id}
        if outcome.error:
            headers["X-Amz-Function-Error"] = outcome.error
        if call.header("X-Amz-Log-Type") == "Tail":
            headers["X-Amz-Log-Result"] = base64.b64encode(outcome.log.encode()[-4096:]).decode()
        return Answer(headers=headers, body=outcome.payload)

    def resolve(self, account: str, region: str, name: str, qualifier: str | None = None) -> LambdaFunction:
        """The version that is to run, by the weights of an alias. `name`: with a qualifier, or an ARN. Raises Refused."""
        if name.startswith("arn:"):
            _, _, _, region, account, _, name, *rest = name.split(":")
            qualifier = rest[0] if rest else qualifier
        elif ":" in name:
            name, qualifier = name.split(":", 1)
        backend = lambda_backends[account][region]
        try:
            if qualifier and not qualifier.isdigit() and qualifier != "$LATEST":
                alias = backend.get_alias(qualifier, name)
                routing: Any = alias.routing_config or {}
                qualifier = str(alias.function_version)
                dice = random.random()  # noqa: S311 - which version answers is no secret
                for version, weight in (routing.get("AdditionalVersionWeights") or {}).items():
                    dice -= weight
                    if dice < 0:
                        qualifier = version
                        break
            return backend.get_function(name, qualifier)
        except (JsonRESTError, ServiceException, KeyError, ValueError) as error:
            arn = f"arn:aws:lambda:{region}:{account}:function:{name}" + (f":{qualifier}" if qualifier else "")
            raise Refused("ResourceNotFoundException", f"Function not found: {arn}", 404) from error

    def run(self, function: LambdaFunction, payload: bytes, qualifier: str = "", request_id: str = "") -> Outcome:
        """Run it once, write its log, and count it. qualifier: the alias or version that was asked for. Raises Refused where it
        cannot be run at all.
        """
        outcome = self.workers.invoke(self._code(function), payload, request_id)
        version = str(function.version)
        failed = float(bool(outcome.error))
        counted = {"Invocations": (1.0, "Count"), "Errors": (failed, "Count"), "Duration": (outcome.ms, "Milliseconds")}
        _count(function, qualifier, counted)
        report = f"REPORT RequestId: {outcome.request_id}\tDuration: {outcome.ms:.2f} ms"
        lines = [
            f"START RequestId: {outcome.request_id} Version: {version}",
            outcome.log.rstrip("\n"),
            f"END RequestId: {outcome.request_id}",
            f"{report}\tMemory Size: {function.memory_size} MB",
        ]
        if outcome.init_ms:
            lines[-1] += f"\tInit Duration: {outcome.init_ms:.2f} ms"
        outcome.log = "\n".join(line for line in lines if line) + "\n"
        if roles.may_log(function.role, function.region, function.logs_group_name, outcome.stream):
            log_streams.append(
                function.account_id, function.region, function.logs_group_name, outcome.stream, outcome.log
            )
        return outcome

    def deliver(self, arn: str, event: Any, *, service: str = "", source_arn: str = "", dead_letters: str = "") -> None:
        """An event for a function, from another service; it comes back at once.

        service and source_arn: who asks, to be allowed by the function's own policy; dead_letters: a queue of the one who asks.
        """
        payload = json.dumps(event).encode()
        try:
            function = self.resolve("", "", arn)
            if service and not service_may(
                {"Statement": function.policy.statements},
                service,
                "lambda:InvokeFunction",
                "*",
                {"AWS:SourceArn": source_arn, "AWS:SourceAccount": function.account_id},
            ):
                raise Refused(
                    "AccessDeniedException", f"{service} may not invoke {arn}: its policy does not allow it", 403
                )
        except Refused as refused:
            logger.warning("an event from %s is not delivered: %s", service or "a schedule", refused.message)
            if dead_letters:
                self.send(dead_letters, payload, ERROR_CODE=refused.code, ERROR_MESSAGE=refused.message)
            return
        self._deliver(function, payload, dead_letters, _qualifier(arn))

    def reset(self) -> None:
        """Forget what was to be delivered, and end what runs."""
        self._closing.set()
        self._events.shutdown(wait=False, cancel_futures=True)
        self._events, self._closing = ThreadPoolExecutor(EVENT_THREADS, thread_name_prefix="event"), threading.Event()
        self._credentials.clear()
        self.workers.reset()

    def close(self) -> None:
        self._closing.set()
        self.workers.close()
        self._events.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, function: LambdaFunction, payload: bytes, dead_letters: str = "", qualifier: str = "") -> str:
        """The id of the request, which is the same each time that it is tried."""
        request_id = str(uuid.uuid4())
        self._events.submit(self._work, function, payload, request_id, dead_letters, qualifier)
        return request_id

    def _work(self, function: LambdaFunction, payload: bytes, request_id: str, letters: str, qualifier: str) -> None:
        config: Mapping[str, Any] = function.event_invoke_config[0].config if function.event_invoke_config else {}
        tries = 1 + config.get("MaximumRetryAttempts", 2)
        outcome, closing = Outcome(), self._closing
        for attempt in range(tries):
            try:
                outcome = self.run(function, payload, qualifier, request_id)
            except Refused as refused:
                said = json.dumps({"errorMessage": refused.message}).encode()
                outcome = Outcome(payload=said, error="Unhandled", request_id=request_id)
            except Exception:
                logger.exception("an event for %s", function.function_arn)
                return
            if not outcome.error:
                break
            if attempt + 1 < tries and closing.wait(RETRY_PAUSES_S[min(attempt, len(RETRY_PAUSES_S) - 1)]):
                break
        if closing.is_set():
            return
        if outcome.error:
            _count(function, qualifier, {"AsyncEventsDropped": (1.0, "Count")})
        destination = config.get("DestinationConfig", {}).get("OnFailure" if outcome.error else "OnSuccess", {})
        if (target := destination.get("Destination")) and roles.may(function.role, SENDS[target.split(":")[2]], target):
            self.send(target, json.dumps(_record(function, payload, outcome, tries)).encode())
        own = getattr(function, "dead_letter_config", {}).get("TargetArn", "")
        if not letters and own and roles.may(function.role, SENDS[own.split(":")[2]], own):
            letters = own
        if outcome.error and letters:
            why = outcome.payload.decode("utf-8", "replace")[:1024]
            self.send(letters, payload, RequestID=request_id, ErrorCode="200", ErrorMessage=why)

    def send(self, arn: str, body: bytes, **told: str) -> None:
        """To a queue, a topic, a bus or a function, as destinations and dead-letter queues are; `told` beside the message."""
        _, _, service, region, account, name = arn.split(":", 5)
        text = body.decode("utf-8", "replace")
        try:
            keys = {"aws_access_key_id": "emulated", "aws_secret_access_key": "emulated"}
            client = boto3.client(service, endpoint_url=self._url, region_name=region, **keys)
            attributes = {key: {"DataType": "String", "StringValue": value} for key, value in told.items()}
            if service == "sqs":
                queue = client.get_queue_url(QueueName=name)["QueueUrl"]
                client.send_message(QueueUrl=queue, MessageBody=text, MessageAttributes=attributes)
            elif service == "sns":
                client.publish(TopicArn=arn, Message=text, MessageAttributes=attributes)
            else:
                self.deliver(arn, json.loads(text))
        except Exception:
            logger.exception("what failed cannot be sent to %s", arn)

    def _code(self, function: LambdaFunction) -> Code:
        runtime, image = str(function.run_time), None
        if function.package_type == "Image":
            image = self._image(function)
        elif not runtime.startswith("python"):
            why = f"the emulator runs functions in Python, and images, but none for {runtime}"
            raise Refused("InvalidRuntimeException", why, 502)
        if function.layers:
            raise Refused("InvalidRuntimeException", "the emulator does not run functions with layers", 502)
        version, arn = str(function.version), function.function_arn
        most = (
            lambda_backends[function.account_id][function.region]
            .get_function(function.function_name)
            .reserved_concurrency
        )
        if most == 0:
            raise Refused("TooManyRequestsException", "Rate Exceeded.", 429)
        env = {
            **self._role(function.account_id, function.role),
            "AWS_ENDPOINT_URL": self._url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": function.region,
            "AWS_DEFAULT_REGION": function.region, "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_LAMBDA_FUNCTION_NAME": function.function_name,
            "AWS_LAMBDA_FUNCTION_VERSION": version, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
            "AWS_LAMBDA_LOG_GROUP_NAME": function.logs_group_name, "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            **({} if image else {"AWS_EXECUTION_ENV": f"AWS_Lambda_{runtime}"}), **function.environment_vars,
        }  # fmt: skip
        config = function.image_config
        told = json.dumps(
            [arn, version, function.code_sha_256, function.handler, config.response(), function.timeout, env],
            sort_keys=True,
        )
        return Code(
            key=hashlib.sha256(told.encode()).hexdigest(), arn=arn, version=version, timeout_s=float(function.timeout),
            memory_mib=int(function.memory_size), env=env,
            zip=b"" if image else function.code_bytes, handler=str(function.handler), image=image,
            entrypoint=tuple(config.entry_point), words=tuple(config.cmd), most=most or 0,
        )  # fmt: skip

    def _image(self, function: LambdaFunction) -> Image:
        """The function's image, with its environment made. Raises Refused."""
        try:
            image = self._images.find(versions.resolved(function))
            assert image.python
        except (NoImage, EkibenError) as error:
            raise Refused("InvalidRuntimeException", str(error), 502) from error
        return image

    def _role(self, account: str, arn: str) -> dict[str, str]:
        """Credentials of the function's role, once for each."""
        if arn not in self._credentials:
            roles.trusted(arn, "lambda.amazonaws.com")
            assumed = sts_backends[account]["aws"].assume_role("us-east-1", "lambda", arn, "", 43200, "")
            self._credentials[arn] = {
                "AWS_ACCESS_KEY_ID": assumed.access_key_id,
                "AWS_SECRET_ACCESS_KEY": assumed.secret_access_key,
                "AWS_SESSION_TOKEN": assumed.session_token,
            }
        return self._credentials[arn]


def _qualifier(name: str, asked: str = "") -> str:
    """The alias or version in a name or an ARN, or that asked for beside it."""
    found = name.split(":")[7:8] if name.startswith("arn:") else name.split(":")[1:2]
    return "".join(found) or asked


def _count(function: LambdaFunction, qualifier: str, values: Mapping[str, tuple[float, str]]) -> None:
    where = lambda_dimensions(function.function_name, str(function.version), qualifier)
    count(function.account_id, function.region, "AWS/Lambda", where, values)


def _keep_what_moto_drops() -> None:
    """Have moto keep, and tell, the DeadLetterConfig and the LoggingConfig that it drops."""
    make, configure, tell = (
        LambdaFunction.__init__,
        LambdaFunction.update_configuration,
        LambdaFunction.get_configuration,
    )

    def keep(function: Any, config: Mapping[str, Any]) -> None:
        if "DeadLetterConfig" in config:
            function.dead_letter_config = config["DeadLetterConfig"] or {}
        if "LoggingConfig" in config:
            function.logging_config = {"LogFormat": "Text", **(config["LoggingConfig"] or {})}
            function.logs_group_name = function.logging_config.get("LogGroup") or function.logs_group_name

    def init(self: LambdaFunction, account_id: str, spec: dict[str, Any], *more: Any, **named: Any) -> None:
        self.dead_letter_config, self.logging_config = {}, {}  # type: ignore[attr-defined]
        make(self, account_id, spec, *more, **named)
        keep(self, spec)

    def update(self: LambdaFunction, config_updates: dict[str, Any]) -> dict[str, Any]:
        keep(self, config_updates)
        return configure(self, config_updates)

    def get(self: LambdaFunction, on_create: bool = False) -> dict[str, Any]:
        kept, logs = getattr(self, "dead_letter_config", {}), getattr(self, "logging_config", {})
        return {
            **tell(self, on_create),
            **({"DeadLetterConfig": kept} if kept.get("TargetArn") else {}),
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": self.logs_group_name, **logs},
        }

    LambdaFunction.__init__ = init  # type: ignore[method-assign]
    LambdaFunction.update_configuration = update  # type: ignore[method-assign]
    LambdaFunction.get_configuration = get  # type: ignore[method-assign]


def _record(function: LambdaFunction, payload: bytes, outcome: Outcome, tries: int) -> dict[str, Any]:
    """What a destination gets (https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html)."""
    condition = "RetriesExhausted" if outcome.error else "Success"
    return {
        "version": "1.0", "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        "requestContext": {
            "requestId": outcome.request_id, "functionArn": f"{function.function_arn}:{function.version}", "condition": condition,
            "approximateInvokeCount": tries,
        },
        "requestPayload": json.loads(payload), "responsePayload": json.loads(outcome.payload or b"null"),
        "responseContext": {
            "statusCode": 200, "executedVersion": str(function.version),
            **({"functionError": outcome.error} if outcome.error else {}),
        },
    }  # fmt: skip
