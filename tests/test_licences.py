"""The page of licences names every dependency, and what stays has a reason."""

import re
import subprocess
import sys
import types
from importlib import metadata

import pytest
from helpers import ROOT, script


@pytest.fixture(scope="module")
def licences():
    return script(".ci/licences.py")


def test_every_dependency_is_listed_with_its_licence(licences):
    mine, theirs = licences.rows()
    assert {row.name for row in mine} == licences.direct().keys()
    assert {"jax", "numpy", "safetensors", "torch", "ruff"} <= {row.name for row in mine}
    assert "jaxlib" in {row.name for row in theirs}
    assert not [row.name for row in mine + theirs if row.licence == "not stated"]
    here = {row.name: row for row in mine}
    assert here["numpy"].version == metadata.version("numpy")
    assert "BSD" in here["numpy"].licence
    assert here["pillow"].needed.split(", ")[0] == "always"


def test_what_stays_is_still_needed(licences):
    assert licences.STAYS.keys() <= licences.direct().keys()
    assert licences.STATED.keys() <= licences.direct().keys()


def test_the_command_prints_the_page(licences):
    command = [sys.executable, ROOT / ".ci" / "licences.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == licences.page()
    rows = re.findall(r"^\| (?!package )([a-z0-9-]+) \|.* \| .+ \| .+ \|$", printed, re.MULTILINE)
    assert len(rows) == len(set(rows)) == sum(map(len, licences.rows()))


def test_the_site_has_the_page(licences):
    assert ".ci/licences.py" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    config = types.SimpleNamespace(nav=[])
    licences.on_config(config)
    assert config.nav == [{"Licences": "licences.md"}]
