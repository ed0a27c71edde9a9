"""The two CI files of a new project, as they can be read: pinned, least rights, no keys, nothing of a stranger's in a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

TEMPLATE = Path(__file__).resolve().parents[2] / "template"
GITHUB = TEMPLATE / ".github" / "workflows" / "ekiben.yml"
GITLAB = TEMPLATE / ".gitlab-ci.yml"
CLOUDS = {"aws": "aws-actions/configure-aws-credentials", "gcp": "google-github-actions/auth", "azure": "azure/login"}


@pytest.fixture(scope="module")
def github() -> Any:
    # YAML 1.1 takes the key `on` for a truth value.
    return yaml.safe_load(re.sub(r"^on:", '"on":', GITHUB.read_text("utf-8"), flags=re.MULTILINE))


@pytest.fixture(scope="module")
def gitlab() -> Any:
    return yaml.safe_load(GITLAB.read_text("utf-8"))


def test_actions_are_pinned(github: Any) -> None:
    used = [step["uses"] for job in github["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|[0-9a-f]{40})", each)] == []


def test_each_job_has_the_rights_that_it_needs_and_no_more(github: Any) -> None:
    assert github["permissions"] == {"contents": "read"}
    cloud = {"contents": "read", "id-token": "write"}
    assert {name: job.get("permissions") for name, job in github["jobs"].items()} == {
        "test": None, "stack": None, "preview": {**cloud, "pull-requests": "write"}, "up": cloud,
    }  # fmt: skip
    for job in github["jobs"].values():
        assert "timeout-minutes" in job
        checkout = job["steps"][0]
        assert checkout["uses"].startswith("actions/checkout@")
        assert checkout["with"]["persist-credentials"] is False


@pytest.mark.parametrize("file", [GITHUB, GITLAB], ids=["github", "gitlab"])
def test_no_key_is_stored(file: Path) -> None:
    text = file.read_text("utf-8")
    assert "secrets." not in text
    assert not re.search(r"ACCESS_KEY|SERVICE_ACCOUNT_KEY|CLIENT_SECRET|CREDENTIALS_JSON|PASSPHRASE", text)


def test_what_others_can_write_reaches_a_shell_in_variables_only(github: Any) -> None:
    for job in github["jobs"].values():
        for step in job["steps"]:
            assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("job", ["preview", "up"])
def test_the_provider_of_the_stack_chooses_how_to_sign_in(github: Any, job: str) -> None:
    steps = {step["uses"].partition("@")[0]: step for step in github["jobs"][job]["steps"] if "uses" in step}
    for cloud, action in CLOUDS.items():
        assert steps[action]["if"] == f"needs.stack.outputs.provider == '{cloud}'"


def test_up_is_for_main_alone_after_the_tests_one_at_a_time_in_an_environment(github: Any, gitlab: Any) -> None:
    up = github["jobs"]["up"]
    assert github["on"]["push"] == {"branches": ["main"]}
    assert up["if"] == "github.event_name == 'push' && needs.stack.outputs.provider != 'local'"
    assert up["needs"] == ["stack", "test"]
    assert up["environment"] == "${{ needs.stack.outputs.name }}"
    assert up["concurrency"] == {"group": "up-${{ needs.stack.outputs.name }}", "cancel-in-progress": False}

    up = gitlab["up"]
    assert up["rules"] == [{"if": "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}]
    assert gitlab["stages"].index("test") < gitlab["stages"].index(up["stage"])
    assert "needs" not in up
    assert up["environment"]["name"] == "$EKIBEN_STACK"
    assert up["resource_group"] == "up-$EKIBEN_STACK"
    assert up["interruptible"] is False


def test_both_run_the_same_commands(github: Any, gitlab: Any) -> None:
    def run(job: str) -> list[str]:
        return [step["run"] for step in github["jobs"][job]["steps"] if "run" in step]

    assert gitlab["test"]["script"] == run("test")
    verbs = [
        set(re.findall(r"\.venv/bin/\S+ \S+", "\n".join(each)))
        for each in (run("preview"), gitlab["preview"]["script"])
    ]
    assert verbs[0] == verbs[1] == {".venv/bin/ekiben preview", ".venv/bin/python .ci/comment.py"}
    assert gitlab["up"]["script"][1:] == [line.replace("$STACK", "$EKIBEN_STACK") for line in run("up")]


@pytest.mark.parametrize("provider", ["local", *CLOUDS])
def test_a_job_on_gitlab_signs_in_with_its_own_token(provider: str, gitlab: Any, tmp_path: Path) -> None:
    (tmp_path / "Pulumi.prod.yaml").write_text(f"config:\n  ekiben:provider: {provider}\n")
    (tmp_path / "tmp").mkdir()
    given = {
        "EKIBEN_STACK": "prod", "CI_JOB_ID": "9", "AWS_ID_TOKEN": "aws.t", "GCP_ID_TOKEN": "gcp.t", "AZURE_ID_TOKEN": "azure.t",
        "GCP_WORKLOAD_IDENTITY_PROVIDER": "projects/1/locations/global/workloadIdentityPools/p/providers/gitlab",
        "GCP_SERVICE_ACCOUNT": "up@shop.iam.gserviceaccount.com", "AZURE_CLIENT_ID": "c", "AZURE_TENANT_ID": "t",
        "AZURE_SUBSCRIPTION_ID": "s", "PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "tmp"),
    }  # fmt: skip
    script = "\n".join(["set -eu", *gitlab[".stack"]["before_script"], "env -0"])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=given, capture_output=True, timeout=30, check=True)
    found = dict(line.split("=", 1) for line in done.stdout.decode().rstrip("\0").split("\0"))
    new = {name: value for name, value in found.items() if name not in given and name not in ("PWD", "SHLVL", "_")}
    for file in (tmp_path / "tmp").iterdir():
        assert file.stat().st_mode & 0o077 == 0, "a token is for its owner only"
    match provider:
        case "local":
            assert new == {}
        case "aws":
            assert set(new) == {"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_SESSION_NAME"}
            assert Path(new["AWS_WEB_IDENTITY_TOKEN_FILE"]).read_text() == "aws.t"
        case "gcp":
            card = json.loads(Path(new["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
            assert Path(card["credential_source"]["file"]).read_text() == "gcp.t"
            assert card["audience"] == f"//iam.googleapis.com/{given['GCP_WORKLOAD_IDENTITY_PROVIDER']}"
            assert card["service_account_impersonation_url"].endswith(
                f"/{given['GCP_SERVICE_ACCOUNT']}:generateAccessToken"
            )
        case "azure":
            assert Path(new["AZURE_FEDERATED_TOKEN_FILE"]).read_text() == new["ARM_OIDC_TOKEN"] == "azure.t"
            assert [new[f"ARM_{name}_ID"] for name in ("CLIENT", "TENANT", "SUBSCRIPTION")] == ["c", "t", "s"]


def test_the_readme_names_the_variables_that_they_take() -> None:
    readme = (TEMPLATE / "README.md").read_text("utf-8")
    taken = set(re.findall(r"vars\.(\w+)", GITHUB.read_text("utf-8")))
    assert taken == {name for name in taken if f"`{name}`" in readme}
    assert "`COMMENT_TOKEN`" in readme
