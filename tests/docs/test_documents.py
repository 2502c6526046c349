"""What documents name is there: modules, tests, pages, pictures, versions, links."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import workbench
from tests import documents
from workbench.ui import contents

ROOT = documents.ROOT
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"))
)
LONGEST_README = 150
# What `make bench` writes; a checkout may be without it.
MADE = {"docs/benchmarks.md"}


@functools.cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_what_is_there(name: str) -> None:
    text = documents.read(name)
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
        place = ((ROOT / name).parent / target).resolve()
        known = place.exists() or place.relative_to(ROOT).as_posix() in MADE
        assert known, f"{name} links to {target}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_headings_that_are_linked_are_there(name: str) -> None:
    for target, heading in re.findall(r"\]\(([^)#\s]*\.md)#([^)]+)\)", documents.read(name)):
        text = ((ROOT / name).parent / target).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
        anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
        assert heading in anchors, f"{name} links to {target}#{heading}"


def test_the_index_leads_to_every_document() -> None:
    index = documents.read("docs/README.md")
    for name in DOCUMENTS:
        if name.startswith("docs/") and name != "docs/README.md":
            assert f"({name.removeprefix('docs/')})" in index, name


def test_the_index_says_what_each_page_of_the_app_answers() -> None:
    index = documents.read("docs/README.md")
    for path in sorted((ROOT / "pages").glob("*.py")):
        page = contents.read(path)
        assert f"| **{page.title}** |" in index, page.title


class TestMethods:
    TEXT = documents.read("docs/methods.md")

    def test_every_module_that_is_named_is_there(self) -> None:
        named = re.findall(r"`((?:analyses|workbench)/[\w/]+(?:\.py|/))`", self.TEXT)
        assert len(named) > 30
        assert [path for path in named if not (ROOT / path).exists()] == []

    def test_every_analysis_is_named(self) -> None:
        for path in sorted((ROOT / "analyses").iterdir()):
            if path.stem.startswith("_"):
                continue
            ending = "" if path.suffix else "/"
            assert f"`analyses/{path.name}{ending}`" in self.TEXT, path.name

    def test_every_paper_that_an_analysis_names_as_its_source_stands_here(self) -> None:
        for path in sorted((ROOT / "analyses").iterdir()):
            if path.stem.startswith("_"):
                continue
            file = path if path.suffix else path / "__init__.py"
            source = file.read_text(encoding="utf-8").partition("Source: ")[2].partition("\n\n")[0]
            for paper in re.findall(r"\d{4}\.\d{4,5}", source):
                assert paper in self.TEXT, f"{path.name} names arXiv {paper}"


class TestThreatModel:
    TEXT = documents.read("docs/threat-model.md")

    def test_every_test_that_is_named_is_there(self) -> None:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", self.TEXT)
        assert len(named) > 30
        assert [one for one in named if one[1] not in functions_of(one[0])] == []

    def test_no_line_of_the_table_is_without_a_test(self) -> None:
        lines = [line for line in self.TEXT.splitlines() if line.startswith("| ")][1:]
        assert len(lines) > 15
        assert [line for line in lines if "::" not in line] == []


def test_the_server_listens_to_this_machine_under_its_own_name_only() -> None:
    text = (ROOT / "workbench" / ".streamlit" / "config.toml").read_text(encoding="utf-8")
    server = tomllib.loads(text)["server"]
    assert server["address"] == "127.0.0.1"
    assert server["allowedHosts"] == ["127.0.0.1", "localhost"]
    # On unless they are turned off.
    assert server.get("enableXsrfProtection", True) and server.get("enableCORS", True)


class TestWhatIsDeclared:
    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    def test_one_version_everywhere(self) -> None:
        assert self.CITATION["version"] == workbench.__version__ == self.PROJECT["version"]
        assert f"## [{workbench.__version__}] - " in documents.read("CHANGELOG.md")

    def test_the_citation_has_what_its_format_asks_for(self) -> None:
        assert self.CITATION["cff-version"] == "1.2.0"
        assert {"message", "title", "authors", "abstract", "license"} <= set(self.CITATION)
        assert all("name" in author for author in self.CITATION["authors"])
        date = self.CITATION["date-released"].isoformat()
        assert f"## [{workbench.__version__}] - {date}" in documents.read("CHANGELOG.md")

    def test_the_licence_is_the_one_that_is_declared(self) -> None:
        assert documents.read("LICENSE").startswith("MIT License\n")
        assert self.CITATION["license"] == self.PROJECT["license"] == "MIT"
        assert self.PROJECT["license-files"] == ["LICENSE"]


class TestReadme:
    TEXT = documents.read("README.md")

    def test_it_is_read_in_three_minutes(self) -> None:
        assert len(self.TEXT.splitlines()) <= LONGEST_README

    def test_it_leads_to_every_tutorial_and_to_the_index(self) -> None:
        for path in sorted((ROOT / "docs" / "tutorials").glob("*.md")):
            assert f"(docs/tutorials/{path.name})" in self.TEXT
        assert "(docs/README.md)" in self.TEXT


@pytest.mark.parametrize("name", DOCUMENTS)
def test_pictures_are_pictures(name: str) -> None:
    for path in documents.pictures(documents.read(name)):
        assert (Path(ROOT / name).parent / path).read_bytes().startswith(b"\x89PNG")
