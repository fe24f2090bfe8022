"""CONTRIBUTING's snippets, done from outside: each thing works without a change to the source."""

import re
from pathlib import Path

import pytest
from torch import nn

from tests.tables import restored
from wnrl import NORMS, vae
from wnrl.study.execute import runner
from wnrl.study.folder import publish
from wnrl.study.summary import summarise

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def added():
    """Return the names that the snippets leave; the tables are as they were afterwards."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = {"__name__": "my_package"}
    with restored():
        for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            exec(compile(block, "CONTRIBUTING.md", "exec"), names)
        yield names
    assert "instance" not in NORMS


@pytest.fixture(scope="module")
def done(added, tmp_path_factory):
    """Return the study's folder and its trials, each of which was trained."""
    root, trials = tmp_path_factory.mktemp("study"), added["STUDY"].trials()
    for trial in trials:
        result = runner(trial.runner)[0](trial, root / trial.folder, lambda fraction: None)
        assert result["status"] == "finished", trial.title
    return root, trials


def test_a_study_of_everything_that_was_added_trains_and_is_summarised(added, done):
    root, trials = done
    rows = summarise(root, trials, "none", {})
    assert len(trials) == 2 * 3 * 2 * 2
    assert all(row.score is not None and not row.failures for row in rows)
    assert {row.arm.name for row in rows} == {"none", "instance", "paper"}


def test_the_report_shows_a_norm_that_was_added_in_its_colour(added, done):
    root, trials = done
    publish(root, added["STUDY"], trials, summarise(root, trials, "none", {}), {})
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "#117733" in page
    assert "group norm with two groups" in page


def test_a_vae_that_was_added_is_found_again_in_its_run(added, done):
    root, trials = done
    folder = next(
        root / t.folder for t in trials if (t.task.name, t.arm.name) == ("stripes", "instance")
    )
    model = vae.load(folder)
    assert isinstance(model, added["ShallowVAE"])
    assert any(isinstance(part, nn.GroupNorm) for part in model.modules())
