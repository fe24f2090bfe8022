"""The world of one's own of docs/population.md, written as a user would."""

import re
from pathlib import Path

import pytest
import torch
from gymnasium.utils.env_checker import check_env

from envs import factory
from tests.tables import restored
from wnrl.tensor_envs import make
from wnrl.tensor_envs.core import advance, begin

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "population.md"
*TRAINING, WORLD, _ = re.findall(
    r"^```python\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL
)


@pytest.fixture(autouse=True)
def catch():
    with restored():
        exec(compile(WORLD, str(DOCUMENT), "exec"), {"__name__": "my_worlds"})
        yield make("Catch-v0")


def test_it_has_sixty_lines():
    assert WORLD.count("\n") <= 60


def followed(obs):
    """Go where the ball is."""
    return 1 + (obs[..., 0] - obs[..., 1]).sign().long()


def test_an_episode_ends_with_what_was_caught(catch):
    episodes = begin(catch, torch.rand(3, 50, catch.reset_draws))
    assert episodes.obs[..., 0].unique().tolist() == [0, 0.25, 0.5, 0.75, 1]
    still, total = episodes, 0
    for k in range(catch.rows - 1):
        u = torch.rand(3, 50, catch.reset_draws)
        episodes, step = advance(catch, episodes, followed(episodes.obs), u)
        still, lazy = advance(catch, still, torch.ones(3, 50, dtype=torch.int64), u)
        total += step.rewards
        assert step.terminated.all() == step.terminated.any() == (k == catch.rows - 2)
    assert (total == 1).all()
    under_the_ball = lazy.final_obs[..., 0] == 0.5
    assert torch.equal(lazy.rewards == 1, under_the_ball)
    assert (episodes.steps == 0).all()


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("env_id", ["Catch-v0", "Catch-obs_dropout0.2-delay2-sticky0.1-v0"])
def test_it_has_gymnasiums_form_and_a_worlds_dials(env_id):
    env = factory(env_id)()
    check_env(env, skip_render_check=True)
    assert env.spec.max_episode_steps == make(env_id).max_episode_steps == 10


@pytest.mark.parametrize(("program", "kind"), zip(TRAINING, ("PPO", "MLPVAE"), strict=True))
def test_a_population_trains_as_the_document_says(program, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(program, str(DOCUMENT), "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["norm", "none", "none", "weight", "weight"]
    assert type(names["model"]).__name__ == kind
    assert (tmp_path / "agent.zip").is_file() == (kind == "PPO")
