"""The snippets of docs/extending.md: each thing works without a change to the source."""

import re
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import gymnasium
import pytest
from torch import nn

import envs
from scripts import _cli, compare
from tests.tables import restored
from wnrl import NORMS, vae
from wnrl.runs import Stopped
from wnrl.study.execute import runner
from wnrl.study.folder import publish
from wnrl.study.summary import summarise

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def added():
    """Return the names that the snippets leave; the tables are as they were afterwards."""
    names = {"__name__": "my_lab"}
    with restored():
        for block in SNIPPETS:
            exec(compile(block, "extending.md", "exec"), names)
        yield names
    assert "instance" not in NORMS


@pytest.fixture(scope="module")
def done(added, tmp_path_factory):
    """Return the study's folder and its trials, each of which was trained."""
    root, trials = tmp_path_factory.mktemp("study"), added["STUDY"].trials()
    for trial in trials:
        result = runner(trial.task.runner)[0](trial, root / trial.folder, lambda fraction: None)
        assert result["status"] == "finished", trial.title
    return root, trials


def test_a_study_of_everything_that_was_added_trains_and_is_summarised(added, done):
    root, trials = done
    rows = summarise(root, trials, "none")
    assert len(trials) == 2 * 3 * 2 * 2
    assert all(row.score is not None and not row.failures for row in rows)
    assert {row.arm.name for row in rows} == {"none", "instance", "adamax"}


def test_the_report_shows_a_norm_that_was_added_in_its_colour(added, done):
    root, trials = done
    publish(root, added["STUDY"], trials)
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


def test_an_environment_that_was_added_is_made_from_its_id(added):
    with closing(envs.factory("Heavy-v0")()) as env:
        assert env.unwrapped.masspole == 1.0


@pytest.fixture
def my_folder(tmp_path, monkeypatch):
    """The current folder, with the snippets as my_lab.py and, the last of them, my_study.py."""
    (tmp_path / "my_lab.py").write_text("\n".join(SNIPPETS[:-1]), encoding="utf-8")
    (tmp_path / "my_study.py").write_text(SNIPPETS[-1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_page_works_as_pasted(my_folder):
    (commands,) = re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    quick = {"train_agent": ["--total-timesteps", "256"], "train_vae": ["--epochs", "2"],
             "compare": ["--seeds", "1"]}  # fmt: skip
    for command in commands.splitlines():
        _, script, *flags = shlex.split(command)
        done = subprocess.run(
            [sys.executable, ROOT / script, *flags, *quick.get(Path(script).stem, [])],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (my_folder / "runs" / "my_study" / "report.html").is_file()


def test_workers_of_a_study_import_what_the_command_names(my_folder, monkeypatch):
    told = []

    def no_workers(root, size, imports, log):
        told.extend(imports)
        raise Stopped(15, "enough is known")

    monkeypatch.setattr("scripts._progress.Processes", no_workers)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["compare.py", "my_study.py", "--import", "my_lab"])
    with restored():
        gymnasium.registry.pop("Heavy-v0", None)  # which others of these tests have
        with pytest.raises(SystemExit) as left:
            _cli.run(compare.main, compare.Args)
    assert left.value.code == 143
    assert told == ["my_lab", "my_study"]
