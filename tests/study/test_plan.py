from dataclasses import replace

import pytest

from wnrl.errors import UsageError
from wnrl.study.plan import NLL, RETURN, Task, plan

CARTPOLE = Task("CartPole-v1", "ppo", "agent", RETURN, ("none", "weight"))
DIGITS = Task("digits", "mlp", "vae", NLL, ("none", "layer"))


def test_all_norms_of_a_seed_come_before_the_next_seed():
    jobs = [(job.norm, job.seed) for job in plan([CARTPOLE], 2)]
    assert jobs == [("none", 0), ("weight", 0), ("none", 1), ("weight", 1)]


def test_each_job_has_a_folder_of_its_own():
    folders = {str(job.folder) for job in plan([CARTPOLE, DIGITS], 3)}
    assert len(folders) == 12
    assert "CartPole-v1/ppo/weight/seed2" in folders


def test_variants_of_a_task_have_folders_and_titles_of_their_own():
    variant = replace(DIGITS, variant="data_init")
    assert variant.title == "mlp-data_init · digits"
    assert len({job.folder for job in plan([DIGITS, variant], 2)}) == 8


def test_norms_can_be_chosen():
    assert {job.norm for job in plan([CARTPOLE, DIGITS], 1, ["layer"])} == {"layer"}


@pytest.mark.parametrize(
    ("norms", "n_seeds", "message"),
    [
        (["wieght"], 1, "did you mean 'weight'"),
        (["batch"], 1, "compared by no task"),
        ([], 0, "seeds must be above zero, got 0"),
    ],
)
def test_wrong_words_and_sizes_are_refused(norms, n_seeds, message):
    with pytest.raises(UsageError, match=message):
        plan([CARTPOLE, DIGITS], n_seeds, norms)
