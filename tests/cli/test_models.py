"""models, approve, reject, release, rollback."""

from __future__ import annotations

import re

from .shelf import runtime as shelf


def test_models_are_listed(ek, platform, version) -> None:
    assert ek("models", "--json").json == []
    assert ek("models").err.startswith("There are no versions yet")
    version(1)
    version(2, "pending", metrics={"auc": 0.912345})
    said = ek("models", "income")
    assert re.search(r"^income:2 +pending +auc 0\.9123", said.out, re.MULTILINE)
    assert [entry["version"] for entry in ek("models", "--json").json] == [2, 1]
    assert ek("models", "other", "--json").json == []
    assert "There is no model 'other'; there are: income." in ek("models", "other").err


def test_one_model_is_shown_with_its_lineage_and_audit(ek, platform, version) -> None:
    lineage = {
        "inputs": {"census": {"uri": "shelf://lake/é/", "sha256": "ab" * 32, "rows": 277677}},
        "code": {"sha256": "cd" * 32, "dirty": True},
    }
    version(3, "pending", ("champion",), lineage=lineage)
    assert ek("approve", "income:3", "--why", "besser: «größer»", "--who", "ana").out == "income:3 is approved.\n"
    said = ek("models", "income@champion")
    for word in ("277677", "shelf://lake/é/", "uncommitted", "besser: «größer»", "ana", "champion"):
        assert word in said.out, word
    shown = ek("models", "income:3", "--json").json
    assert shown["lineage"] == lineage
    assert [(entry["who"], entry["after"]) for entry in shown["audit"]] == [("ana", "approved")]


def test_what_is_not_there_is_named(ek, platform, version) -> None:
    version(1)
    said = ek("models", "income:9")
    assert said.code == 5
    assert "income:1" in said.err


def test_a_decision_needs_a_reason(ek, platform, version) -> None:
    version(1, "pending")
    assert ek("approve", "income:1").code == 2
    assert ek("reject", "income:1", "--why", "  ").code == 3
    assert shelf.STATE["audit"] == []
    assert ek("reject", "income:1", "--why", "worse for the old", "--json").json["state"] == "rejected"
    assert shelf.STATE["audit"][0].who


def test_release_takes_the_newest_approved_version(ek, platform, version) -> None:
    version(1)
    version(2)
    version(3, "pending")
    said = ek("release", "income", "--why", "March")
    assert said.code == 0, said.err
    assert said.out == "income-api serves income:2 (revision v2-22222222).\n"
    assert "without traffic" in said.err
    assert ek("models", "income@champion", "--json").json["version"] == 2


def test_release_and_rollback(ek, platform, version) -> None:
    version(1)
    version(2)
    assert ek("release", "income:1").code == 0
    assert ek("release", "income:2", "--endpoint", "income-api", "--json").json["version"] == "income:2"
    assert ek("rollback", "income-api", "--why", "complaints", "--json").json["version"] == "income:1"
    weights = {r["version"]: r["weight"] for r in ek("endpoints", "--json").json[0]["revisions"]}
    assert weights == {"income:1": 100, "income:2": 0}


def test_what_is_not_approved_is_not_released(ek, platform, version) -> None:
    assert "has no versions" in ek("release", "income").err
    version(1, "pending")
    said = ek("release", "income")
    assert said.code == 3
    assert "ekiben approve income:1" in said.err
    assert ek("release", "income:1").code in (3, 5)
    assert shelf.STATE["revisions"] == []


def test_there_is_nothing_to_roll_back_to(ek, platform) -> None:
    said = ek("rollback")
    assert said.code == 5
    assert "Error: " in said.err


def test_where_a_copy_goes_must_be_told(ek, platform, version) -> None:
    version(1)
    assert ek("copy", "income").code == 2
    said = ek("copy", "income", "--to", "aws")
    assert said.code == 3
    assert "Name one of the platform's: models (shelf)." in said.err
