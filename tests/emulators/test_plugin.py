"""The stand-in plugin without an engine: what it says of inputs, what it takes for the same, and documents it puts together."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
from pulumi.runtime.rpc import UNKNOWN

from ekiben.emulators.aws.plugin.__main__ import sdk_class
from ekiben.emulators.aws.plugin.invokes import document
from ekiben.emulators.aws.plugin.kind import Aws, camel, pascal
from ekiben.emulators.aws.plugin.table import KINDS
from ekiben.emulators.aws.plugin.wire import filled, same
from ekiben.emulators.plugins.types import SIGNATURE, problems

# Of pulumi_aws, about names that it keeps for older programs.
pytestmark = pytest.mark.filterwarnings("ignore:.* has been deprecated in favor of:DeprecationWarning")

BUCKET, VERSIONING, FUNCTION = (
    "aws:s3/bucket:Bucket",
    "aws:s3/bucketVersioning:BucketVersioning",
    "aws:lambda/function:Function",
)
ZIP = {SIGNATURE: "0def7320c3a5731c473e5ecbe6d01bc7", "path": "x.zip", "hash": "1"}


@pytest.mark.parametrize(
    ("token", "inputs", "told"),
    [
        (BUCKET, {"bucket": "b", "tags": {"a": "b"}, "forceDestroy": True}, []),
        (BUCKET, {"bukcet": "b"}, [("bukcet", "BucketArgs has no such property")]),
        (BUCKET, {"tags": ["a"]}, [("tags", "it must be a map, and is \"['a']\"")]),
        (BUCKET, {"forceDestroy": "perhaps"}, [("forceDestroy", "it must be true or false, and is 'perhaps'")]),
        (BUCKET, {"bucket": UNKNOWN, "forceDestroy": "true"}, []),
        (VERSIONING, {"bucket": "b"}, [("versioningConfiguration", "it must be given")]),
        (
            VERSIONING,
            {"bucket": "b", "versioningConfiguration": {"status": "Enabled", "state": 1}},
            [("versioningConfiguration.state", "BucketVersioningVersioningConfigurationArgs has no such property")],
        ),
        (FUNCTION, {"role": "r", "code": ZIP, "timeout": 3, "runtime": "python3.13", "layers": ["a"]}, []),
        (FUNCTION, {"role": "r", "timeout": 2.5}, [("timeout", "it must be a whole number, and is '2.5'")]),
        (FUNCTION, {"role": "r", "layers": [{}]}, [("layers[0]", "it must be a string, and is '{}'")]),
        (FUNCTION, {"role": "r", "code": "x.zip"}, [("code", "it must be an archive, and is 'x.zip'")]),
    ],
)
def test_inputs_are_what_pulumi_aws_says(token: str, inputs: dict[str, Any], told: list[tuple[str, str]]) -> None:
    assert problems(*sdk_class(token), inputs) == told


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: str(kind.type))
def test_the_table_names_what_pulumi_aws_has(kind: Any) -> None:
    """A name of an input or output that the installed package does not know would never be asked for, or never be found."""
    module, name = sdk_class(kind.type)
    asked = dict.fromkeys(kind.takes, UNKNOWN)
    unknown = {key for key, why in problems(module, name, asked) if "no such property" in why}
    assert unknown == set()
    assert kind.fixed | set(kind.defaults) | ({kind.named} if kind.named else set()) <= kind.takes
    from pulumi import _types

    assert set(kind.outputs) <= set(_types.resource_types(getattr(importlib.import_module(module), name)))


def test_documents_are_the_same_when_they_say_the_same() -> None:
    assert same('{"a": 1, "b": [2]}', '{"b":[2],"a":1}')
    assert not same('{"a": 1}', '{"a": 2}')
    assert not same("1", "1.0")
    assert same({**ZIP, "path": "elsewhere"}, ZIP)
    assert not same({**ZIP, "hash": "2"}, ZIP)


def test_what_the_cloud_fills_in_is_no_difference() -> None:
    asked = {"rules": [{"id": "a", "filter": {"prefix": "x"}}], "tags": {"a": "1"}}
    found = {"rules": [{"id": "a", "filter": {"prefix": "y", "more": 1}, "status": "On"}], "tags": {"a": "1", "b": "2"}}
    assert filled(asked, found) == {"rules": [{"id": "a", "filter": {"prefix": "y"}}], "tags": {"a": "1", "b": "2"}}
    assert filled('{"a": 1}', '{"a":1}') == '{"a": 1}'


def test_names_go_there_and_back() -> None:
    value = {"kmsId": "k", "inputPaths": {"myKey": "$.a"}, "rules": [{"id": 1}]}
    names = {"kmsId": "KMSId", "id": "ID"}
    there = pascal(value, names, ("inputPaths",))
    assert there == {"KMSId": "k", "InputPaths": {"myKey": "$.a"}, "Rules": [{"ID": 1}]}
    assert camel(there, names, ("inputPaths",)) == value


def test_a_policy_document_is_put_together_as_the_providers_own() -> None:
    aws = Aws("http://127.0.0.1:1", "us-east-1")
    base = {"Version": "2012-10-17", "Statement": [{"Sid": "A", "Effect": "Deny", "Action": "*", "Resource": "*"}]}
    made = document(
        aws,
        {
            "sourcePolicyDocuments": [json.dumps(base)],
            "statements": [
                {
                    "sid": "B", "actions": ["s3:GetObject", "s3:PutObject"], "resources": ["arn:aws:s3:::b/*"],
                    "principals": [{"type": "AWS", "identifiers": ["*"]}],
                    "conditions": [
                        {"test": "StringLike", "variable": "a", "values": ["1"]},
                        {"test": "StringLike", "variable": "b", "values": ["2", "3"]},
                    ],
                }
            ],
            "overridePolicyDocuments": ['{"Statement": {"Sid": "A", "Effect": "Allow", "Action": "s3:*", "Resource": "*"}}'],
        },
    )  # fmt: skip
    assert json.loads(made["json"]) == {
        "Version": "2012-10-17",
        "Statement": [
            {"Sid": "A", "Effect": "Allow", "Action": "s3:*", "Resource": "*"},
            {
                "Sid": "B", "Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": "arn:aws:s3:::b/*",
                "Principal": {"AWS": "*"}, "Condition": {"StringLike": {"a": "1", "b": ["2", "3"]}},
            },
        ],
    }  # fmt: skip
    assert json.loads(made["minifiedJson"]) == json.loads(made["json"])
