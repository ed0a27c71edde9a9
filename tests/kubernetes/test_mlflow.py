"""An MLflow server that asks who comes, refuses, or is none: what is sent to it, what is told of it, and what goes on."""

from __future__ import annotations

import base64
import logging

import pytest

from ekiben.kubernetes.facts import Mlflow
from tests.fakes.http import Server
from tests.fakes.mlflow import Cluster

from .mirrors import bound, version, warnings

pytestmark = pytest.mark.usefixtures("_telling_anew")

SECRET = "t0ken-of-nobody"


@pytest.mark.parametrize(
    ("held", "sent"),
    [
        ({"token": f"{SECRET}\n"}, f"Bearer {SECRET}"),
        ({"username": "zoë", "password": SECRET}, f"Basic {base64.b64encode(f'zoë:{SECRET}'.encode()).decode()}"),
    ],
)
def test_who_asks_is_in_the_secret_and_told_to_nobody_else(
    store_url: str, bucket: str, cluster: Server, caplog: pytest.LogCaptureFixture, held: dict[str, str], sent: str
) -> None:
    caplog.set_level(logging.DEBUG)
    Cluster.secrets["mlflow"] = held
    refused = bound(store_url, bucket, Mlflow(url=f"{cluster.url}/team", models="m", secret="mlflow"))
    assert refused.register(version()).id == "tiny:1"
    assert set(Cluster.logins) == {sent}
    (told,) = warnings(caplog)
    assert "HTTP 403 (You may not)" in told
    assert SECRET not in caplog.text
    assert SECRET not in refused.part.facts


@pytest.mark.parametrize(
    ("held", "path", "why"),
    [
        (None, "", "no Secret 'mlflow' in the namespace. Make it: kubectl create secret generic mlflow -n shop-dev"),
        ({"password": SECRET}, "", "has neither a token"),
        ({"token": f"{SECRET} {SECRET}"}, "", "has neither a token that a header takes"),
        ({"token": SECRET}, "/login", "HTTP 302"),
        ({"token": SECRET}, "/html", "HTTP 200 and no JSON. Look at ekiben:mlflowUri"),
    ],
)
def test_a_server_that_is_none_fails_nothing_and_says_what_to_do(
    store_url: str,
    bucket: str,
    cluster: Server,
    caplog: pytest.LogCaptureFixture,
    held: dict[str, str] | None,
    path: str,
    why: str,
) -> None:
    if held is not None:
        Cluster.secrets["mlflow"] = held
    wrong = bound(store_url, bucket, Mlflow(url=f"{cluster.url}{path}", models="m", secret="mlflow"))
    assert wrong.register(version()).id == "tiny:1"
    (told,) = warnings(caplog)
    assert why in told
    assert SECRET not in told
