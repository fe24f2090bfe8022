from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import envs
from scripts._lists import studies
from scripts.studies import memory
from wnrl.study.execute import check_trials, study_of
from wnrl.tensor_envs.memory import DOWN, FORWARD, UP


@pytest.mark.parametrize("name", dict(studies()))
def test_every_run_of_a_shipped_study_can_begin(name):
    study = study_of(f"scripts.studies.{name}")
    study = replace(study, seeds=range(1), tuning_seeds=study.tuning_seeds[:5])
    check_trials([*study.tuning_trials(), *study.trials()], Path("nowhere"))


@pytest.mark.parametrize("task", memory.STUDY.tasks, ids=lambda task: task.name)
def test_limits_of_a_t_maze_are_what_the_best_and_the_worst_agent_reach(task):
    cells = int(task.dial[1])

    def played(actions, turn):
        with closing(envs.factory(task.name)()) as env:
            obs, _ = env.reset(seed=0)
            good, bad = (UP, DOWN) if obs[0] else (DOWN, UP)
            rewards = []
            for action in (*actions, {"right": good, "wrong": bad}[turn]):
                _, reward, *ended, _ = env.step(action)
                rewards.append(reward)
            assert any(ended)
        return sum(rewards)

    walls = [UP] * (2 * (cells + 1) - 1)  # of the corridor, until time is up
    late = [FORWARD] * (2 * cells + 1)  # and into the junction's, so that one step is left to turn
    worst = min(played(walls, "wrong"), played(late, "wrong"))
    assert task.limits == pytest.approx((worst, played([FORWARD] * cells, "right")))
