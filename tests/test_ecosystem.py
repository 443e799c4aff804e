"""The files that other programs read: citation, changelog, workflows, containers, issue forms."""
import json
import os
import re
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import kitlib
from kitlib.base.places import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PYTHONS = [f"3.{minor}" for minor in range(8, 20) if SpecifierSet(PROJECT["requires-python"]).contains(f"3.{minor}.0")]


def read(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


def test_the_citation_names_this_version_and_address():
    citation = yaml.safe_load(read("CITATION.cff"))
    for entry in (citation, citation["preferred-citation"]):
        assert entry["version"] == kitlib.__version__ and entry["authors"] and entry["license"] == PROJECT["license"]
        assert entry["repository-code"] == PROJECT["urls"]["Repository"]
    assert [entry["notes"][:7] for entry in citation["references"]] == ["Paper A", "Paper B"]


def test_the_changelog_is_kept_as_keep_a_changelog_says():
    text = read("CHANGELOG.md")
    releases = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release) for release in releases[1:])
    kinds = set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE))
    assert kinds and kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert f"[Unreleased]: {PROJECT['urls']['Repository']}/" in text


def test_the_tests_run_on_every_python_that_is_allowed():
    assert yaml.safe_load(read(".github/workflows/test.yml"))["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS
    tried = yaml.safe_load(read(".github/workflows/newest.yml"))["jobs"]["ranges"]["strategy"]["matrix"]["include"]
    assert {(each["python"], each["resolution"]) for each in tried} >= {
        (PYTHONS[0], "lowest-direct"), (PYTHONS[0], "highest"), (PYTHONS[-1], "highest")}


@pytest.mark.parametrize("name", ["test", "docs", "release", "newest"])
def test_workflows_may_only_read_unless_a_job_asks_for_more(name):
    workflow = yaml.safe_load(read(f".github/workflows/{name}.yml"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            target = re.match(r"make ([\w-]+)", step.get("run", ""))
            assert not target or f"\n{target[1]}:" in read("Makefile")


def test_extras_that_are_named_somewhere_are_there():
    extras = set(PROJECT["optional-dependencies"])
    assert set(re.search(r"EXTRAS +:= (.*)", read("Makefile"))[1].split()) == extras - {"peers"}
    for name in (".github/workflows/newest.yml", "environment.yml", *map(str, REPOSITORY.glob("docs/guides/*.md"))):
        for named in re.findall(r"-e '?\.\[([\w,]+)\]", read(name)):
            assert set(named.split(",")) <= extras


def test_binder_the_container_and_the_image_install_the_lock():
    assert read(".binder/requirements.txt") == "-r ../requirements.lock\n"
    assert read(".binder/runtime.txt") == "python-3.11\n" and os.access(REPOSITORY / ".binder/postBuild", os.X_OK)
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert container["postCreateCommand"] == "make install"
    assert "--no-deps -r requirements.lock" in read("Dockerfile")
    for text in (container["image"], read("Dockerfile")):
        assert re.search(r"python:(1-)?3\.11-", text)


@pytest.mark.parametrize("form", sorted((REPOSITORY / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=str)
def test_issue_forms_have_what_a_form_needs(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    assert all(field["type"] in ("textarea", "input") and field["attributes"]["label"] for field in content["body"])
    names = [field["id"] for field in content["body"]]
    assert len(set(names)) == len(names) and any(field.get("validations") for field in content["body"])
