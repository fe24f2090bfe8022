"""What the documents say must be true: files exist, commands exist, examples run as pasted."""

import importlib
import os
import re
import shlex
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from stable_baselines3 import PPO
from torch import nn

import wnrl.sb3  # noqa: F401 (registers the names of the policies)
from agents.run import checked
from scripts import _cli, train_agent
from tests.tables import restored
from wnrl import WNLinear

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
PROGRAM = re.compile(r"(?:bash|python) ((?:scripts|\.ci)/[\w./]+)")
COMMAND = re.compile(r"(?:scripts/|`)([\w/]+)\.py ([^`#;\n]+)")
EXAMPLES = [path for path in DOCUMENTS if "```python" in path.read_text(encoding="utf-8")]


def blocks(document, language):
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_python(document):
    """Runs all examples of a document one after the other, as a reader would paste them."""
    names = {"__name__": "example"}
    for block in blocks(document, "python"):
        exec(compile(block, str(document), "exec"), names)
    return names


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda path: path.name)
def example(request, tmp_path_factory):
    """A document, the folder that its examples ran in, and the names that they left.

    Agents learn for one rollout, however long they are to.
    """
    folder, learn = tmp_path_factory.mktemp("examples"), PPO.learn
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), restored():
        warnings.simplefilter("ignore")  # those of torch's exporter
        patch.setattr(PPO, "learn", lambda self, total, **more: learn(self, 1, **more))
        patch.chdir(folder)
        return request.param, folder, run_python(request.param)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(document):
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_programs_in_commands_exist(document):
    for program in PROGRAM.findall(document.read_text(encoding="utf-8")):
        assert (ROOT / program).is_file(), program


def commands(document):
    """The programs of a document's commands, and their flags."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    for program, flags in COMMAND.findall(text):
        flags = re.sub(r"<(\w+)>", lambda word: {"seed": "0"}.get(word[1], "weight"), flags)
        words = (os.path.expandvars(word) for word in shlex.split(flags))
        yield program, [name for word in words for name in as_a_shell_finds(word)]


def as_a_shell_finds(word):
    """Return two names for a pattern of names, as a shell would find some."""
    return [word.replace("*", end) for end in "12"] if "*" in word else [word]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_have_flags_that_their_programs_take(document, tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text("\n".join(blocks(document, "python")), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    with restored():
        for program, argv in commands(document):
            module = importlib.import_module(f"scripts.{program.replace('/', '.')}")
            args = _cli.parse(module.Args, None, getattr(module, "preset_of", None), argv)
            if module is train_agent:
                checked(args)
    sys.modules.pop("my_lab", None)


def test_readme_has_commands_and_links():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(LINK.findall(text)) >= 3
    assert "scripts/demo.sh" in PROGRAM.findall(text)


def test_examples_run_as_pasted(example):
    _, _, names = example
    assert len(names) > 5


def test_a_game_is_played_saved_loaded_and_exported_with_the_same_actions(example):
    document, folder, names = example
    if document.name != "agents.md":
        pytest.skip("other examples play no game")
    env, loaded = names["env"], PPO.load(folder / "breakout", device="cpu")
    assert any(isinstance(part, WNLinear) for part in loaded.policy.modules())
    with_weight = {type(part) for part in names["actor"].modules() if hasattr(part, "weight")}
    assert with_weight == {nn.Linear, nn.Conv2d}
    session = onnxruntime.InferenceSession(folder / "actor.onnx")
    obs, differing = env.reset(), 0
    for _ in range(20):
        actions, _ = loaded.predict(obs, deterministic=True)
        image = np.ascontiguousarray(obs.transpose(0, 3, 1, 2))
        (exported,) = session.run(None, {"obs": image})
        differing += int((exported != actions).sum())
        obs, *_ = env.step(np.array([env.action_space.sample() for _ in actions]))
    assert differing == 0


def test_an_entry_of_the_zoo_makes_the_policy_that_it_names():
    (text,) = blocks(ROOT / "docs" / "agents.md", "yaml")
    entry = yaml.safe_load(text)["CartPole-v1"]
    entry.pop("n_timesteps")
    entry["policy_kwargs"] = eval(entry["policy_kwargs"])  # as the zoo does
    model = PPO(env="CartPole-v1", device="cpu", **entry)
    assert isinstance(model.policy.mlp_extractor.policy_net[0], WNLinear)
