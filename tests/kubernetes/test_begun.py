"""What is known of objects whose making was begun."""

from __future__ import annotations

from typing import Any

import pytest

from ekiben.kubernetes.begun import identity


@pytest.mark.parametrize(
    ("type", "inputs", "id"),
    [
        ("kubernetes:core/v1:ConfigMap", {"metadata": {"name": "words", "namespace": "shop-dev"}}, "shop-dev/words"),
        ("kubernetes:core/v1:Namespace", {"metadata": {"name": "shop-dev"}}, "shop-dev"),
        ("kubernetes:serving.knative.dev/v1:Service", {"metadata": {"name": "api", "namespace": "n"}}, "n/api"),
        ("kubernetes:apps/v1:DeploymentPatch", {"kind": "Deployment", "metadata": {"name": "web"}}, ""),
        ("kubernetes:example.com/v1:DispatchPatch", {"kind": "DispatchPatch", "metadata": {"name": "own"}}, "own"),
    ],
)
def test_an_object_is_known_by_its_name(type: str, inputs: dict[str, Any], id: str) -> None:
    assert identity(type, inputs, {}, ()) == id


def test_what_had_no_name_yet_is_told_so() -> None:
    with pytest.raises(KeyError):
        identity("kubernetes:core/v1:Pod", {"metadata": {}}, {}, ())
