"""What the documents say about files must be true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
PROGRAM = re.compile(r"(?:bash|python) ((?:scripts|\.ci)/[\w./]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document):
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_programs_in_commands_exist(document):
    for program in PROGRAM.findall(document.read_text(encoding="utf-8")):
        assert (ROOT / program).is_file(), program


def test_readme_has_commands_and_links():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(LINK.findall(text)) >= 3
    assert "scripts/demo.sh" in PROGRAM.findall(text)
