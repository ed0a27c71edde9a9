"""What the plugin knows of a resource type: how it is made, read, changed and deleted, and what forces another one."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Aws", "Kind", "Props", "camel", "found", "nothing", "pascal", "retag", "tag_list", "untagged", "whole"]

# What the services call a thing that is not there.
ABSENT = re.compile(
    r"NoSuch\w*|\w*NotFound(Exception|Error|Fault)?|404|AWS\.SimpleQueueService\.NonExistentQueue|QueueDoesNotExist"
)

Props = Mapping[str, Any]


class Aws:
    """Clients of the emulated AWS, made once each; `region`, `account` and the tags that every resource gets."""

    def __init__(self, endpoint: str, region: str, default_tags: Mapping[str, str] | None = None) -> None:
        import boto3
        from botocore.config import Config

        self.region, self.default_tags, self.endpoint = region, dict(default_tags or {}), endpoint
        self._session = boto3.session.Session(region_name=region)
        # The emulator is on this machine: it answers, however late, or has ended. Who asks again while it still works finds
        # names taken that nobody else has.
        self._config = Config(connect_timeout=60, read_timeout=600, retries={"total_max_attempts": 3})
        self._clients: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self._account = ""

    def client(self, service: str, region: str = "") -> Any:
        key = service, region or self.region
        with self._lock:  # a session makes one client at a time
            if key not in self._clients:
                self._clients[key] = self._session.client(
                    service, region_name=key[1], endpoint_url=self.endpoint, config=self._config
                )
            return self._clients[key]

    @property
    def account(self) -> str:
        if not self._account:
            self._account = self.client("sts").get_caller_identity()["Account"]
        return self._account

    def tags(self, props: Props) -> dict[str, str]:
        """The tags of a resource: the provider's default ones, and its own before them."""
        return {**self.default_tags, **props.get("tags", {})}


def nothing(aws: Aws, id: str, props: Props) -> None:
    """A deletion that leaves nothing to do: what held it is what is deleted."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One row of the table. `aws:s3/bucket:Bucket` is its type, pulumi_aws's class of that name tells the types of its inputs.

    takes: the inputs that it does something with; any other one is refused, so that none is dropped silently. fixed: those
    which cannot change without another resource. named: the input that gets a name where none is given. defaults: what AWS's
    own provider fills in; computed: inputs that the cloud fills in, and a program that does not name them leaves as they are.
    outputs: what only the cloud knows; renewed: those of them that a change may change. read: None when it is gone; what it
    returns is what is there, by the names that a program uses. adopt: of an import, the inputs that its id tells.
    """

    type: str
    create: Callable[[Aws, Props], str]
    read: Callable[[Aws, str, Props], dict[str, Any] | None]
    takes: frozenset[str]
    update: Callable[[Aws, str, Props, Props], None] | None = None
    delete: Callable[[Aws, str, Props], None] = nothing
    fixed: frozenset[str] = frozenset()
    named: str = ""
    name_chars: int = 63
    name_end: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    computed: frozenset[str] = frozenset()
    outputs: tuple[str, ...] = ()
    renewed: tuple[str, ...] = ()
    tagged: bool = False
    adopt: Callable[[str], dict[str, Any]] = lambda id: {}
    delete_first: bool = False


def found(call: Callable[..., Any], **asked: Any) -> dict[str, Any] | None:
    """What a call of boto3 answers; None when it says that the thing is not there."""
    from botocore.exceptions import ClientError

    try:
        return dict(call(**asked))
    except ClientError as error:
        told = error.response["Error"]
        if ABSENT.fullmatch(str(told.get("Code"))) or re.search(
            "Could not find|does not exist", str(told.get("Message"))
        ):
            return None
        raise


def retag(
    old: Mapping[str, str],
    new: Mapping[str, str],
    add: Callable[[dict[str, str]], Any],
    drop: Callable[[list[str]], Any],
) -> None:
    """Change tags from `old` to `new` with the two calls that a service has for it."""
    if gone := sorted(old.keys() - new.keys()):
        drop(gone)
    if fresh := {key: value for key, value in new.items() if old.get(key) != value}:
        add(fresh)


def pascal(value: Any, names: Mapping[str, str] | None = None, keep: Iterable[str] = ()) -> Any:
    """A program's nested value as the API has it: `noncurrentDays` is `NoncurrentDays`, but for what `names` says.

    What is below a name of `keep` is a map of the user's own, whose keys stay.
    """
    if isinstance(value, Mapping):
        return {
            (names or {}).get(key, key[:1].upper() + key[1:]): item if key in keep else pascal(item, names, keep)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [pascal(item, names, keep) for item in value]
    return value


def camel(value: Any, names: Mapping[str, str] | None = None, keep: Iterable[str] = ()) -> Any:
    """The other way round; `names` and `keep` are the same as for `pascal`."""
    back = {theirs: ours for ours, theirs in (names or {}).items()}
    kept = {(names or {}).get(key, key[:1].upper() + key[1:]) for key in keep}

    def turned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                back.get(key, key[:1].lower() + key[1:]): item if key in kept else turned(item)
                for key, item in value.items()
            }
        return [turned(item) for item in value] if isinstance(value, list) else value

    return turned(value)


def whole(props: Props, *names: str) -> dict[str, Any]:
    """Of `props` those inputs that are given, by the API's names."""
    return {name[:1].upper() + name[1:]: props[name] for name in names if name in props}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def untagged(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}
