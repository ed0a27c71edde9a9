"""Which model a name means: an endpoint's revision, or a version."""

# ruff: noqa: F401, F811 (fixtures)

from __future__ import annotations

import pytest

from ekiben.batch.models import chosen
from ekiben.errors import IntegrityError, NotFound, SpecError
from ekiben.records import Revision
from ekiben.runtime import Runtime
from tests.cli.conftest import folder, platform, version
from tests.cli.shelf import runtime as shelf


@pytest.fixture
def shop(platform, version):
    """A platform of the provider `shelf`, whose endpoint has two revisions."""
    version(1)
    version(2)
    for number, weight, tag in ((1, 90.0, ""), (2, 10.0, "candidate")):
        revision = Revision(
            id=f"v{number}", endpoint="income-api", version=f"income:{number}", digest=f"{number}" * 64, state="ready",
            weight=weight, tag=tag,
        )  # fmt: skip
        shelf.STATE["revisions"].append(revision)
    return Runtime(platform)


def test_an_endpoint_is_its_revision_with_the_most_weight(shop) -> None:
    assert chosen(shop, "income-api").ref == "income:1"
    assert chosen(shop, "income-api", revision="candidate").ref == "income:2"
    assert chosen(shop, "income-api", revision="v1").ref == "income:1"
    assert chosen(shop, "income:2").digest == "2" * 64
    with pytest.raises(NotFound, match="it has: v1, v2"):
        chosen(shop, "income-api", revision="v3")
    with pytest.raises(NotFound, match="it has: income-api"):
        chosen(shop, "income")
    shelf.STATE["revisions"][0] = Revision(
        id="v1", endpoint="income-api", version="income:1", digest="f" * 64, state="ready", weight=90.0
    )
    with pytest.raises(IntegrityError, match="v1 has the digest ffff"):
        chosen(shop, "income-api")
    del shelf.STATE["revisions"][:]
    with pytest.raises(SpecError, match="no revision with traffic"):
        chosen(shop, "income-api")
