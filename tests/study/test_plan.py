import math
from dataclasses import replace

import pytest

from wnrl.errors import UsageError
from wnrl.norms import NORMS, Norm
from wnrl.study import NLL, RETURN, Arm, Study, Task

CARTPOLE = Task("CartPole-v1", "ppo", "a:b", RETURN, {"total_timesteps": 100})
DIGITS = Task("digits", "mlp", "a:b", NLL, {"epochs": 10}, length="epochs")
ARMS = (Arm("none"), Arm("weight"))


def study(**changes):
    values = {"name": "s", "tasks": [CARTPOLE], "arms": ARMS, "baseline": "none", "seeds": [0, 1]}
    return Study(**{**values, **changes})


def folders(of):
    return [str(trial.folder) for trial in of.trials()]


def test_all_arms_of_a_seed_come_before_the_next_seed():
    order = [(trial.arm.name, trial.seed) for trial in study().trials()]
    assert order == [("none", 0), ("weight", 0), ("none", 1), ("weight", 1)]


def test_plain_arms_have_folders_of_task_algorithm_arm_and_seed():
    assert folders(study(seeds=[2]))[1] == "CartPole-v1/ppo/weight/seed2"


def test_each_value_of_an_axis_has_trials_and_folders_of_its_own():
    rates = study(axes={"learning_rate": (1e-3, 3e-3)}, seeds=[0])
    assert [trial.settings["learning_rate"] for trial in rates.trials()] == [1e-3, 1e-3, 3e-3, 3e-3]
    assert "CartPole-v1/ppo/weight/learning_rate=0.003/seed0" in folders(rates)
    assert len(set(folders(rates))) == 4


def test_a_task_may_have_the_first_of_the_seeds_for_its_share():
    tasks = [CARTPOLE, replace(DIGITS, seed_share=0.5)]
    tuned = {"learning_rate": (1e-3, 3e-3)}
    planned = study(tasks=tasks, seeds=range(20), tuned=tuned, tuning_seeds=range(50, 55))
    for each in (planned, planned.from_seed(100)):
        seeds, tuning = (
            {task: sorted({trial.seed for trial in trials if trial.task == task}) for task in tasks}
            for trials in (each.trials(), each.tuning_trials())
        )
        first = each.seeds[0]
        assert seeds == {
            tasks[0]: [*range(first, first + 20)], tasks[1]: [*range(first, first + 10)],
        }  # fmt: skip
        assert tuning == {
            tasks[0]: [*range(first + 50, first + 55)], tasks[1]: [*range(first + 50, first + 53)],
        }  # fmt: skip


def test_a_share_that_is_whole_is_not_rounded_up():
    """25 times 0.28 is a little above seven."""
    planned = study(tasks=[replace(CARTPOLE, seed_share=0.28)], seeds=range(25))
    assert {trial.seed for trial in planned.trials()} == {*range(7)}


def test_more_seeds_begin_with_those_of_the_study():
    assert study(seeds=[3, 5]).with_seeds(4).seeds == [3, 5, 6, 7]
    assert study(seeds=[3, 5]).with_seeds(1).seeds == [3]


def test_values_of_an_axis_may_be_lists_which_become_tuples():
    planned = study(axes={"net_arch": [[64, [64]], [32]]}, tuned={"hidden": ([1], [2])})
    assert planned.axes == {"net_arch": [(64, (64,)), (32,)]}
    assert {hash(trial.cell) and trial.point for trial in planned.trials()} == {
        (("net_arch", (64, (64,))),), (("net_arch", (32,)),),
    }  # fmt: skip
    assert Arm("none", tuned={"hidden": [[1]]}).tuned == {"hidden": [(1,)]}


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan"), "half"])
def test_a_share_of_seeds_is_above_zero_and_up_to_one(share):
    with pytest.raises(UsageError, match="seed_share must be a"):
        replace(CARTPOLE, seed_share=share)


@pytest.mark.parametrize("name", ["seed", "norm"])
@pytest.mark.parametrize("place", ["settings", "axes", "tuned", "task", "arm", "tuned of an arm"])
def test_seeds_and_norms_are_no_settings(place, name):
    changes = {
        "task": {"tasks": [replace(CARTPOLE, settings={name: "weight"})]},
        "arm": {"arms": (Arm("none"), Arm("weight", settings={name: 3}))},
        "tuned of an arm": {"arms": (Arm("none"), Arm("weight", tuned={name: (1, 2)}))},
    }
    with pytest.raises(UsageError, match=f"^{name} is no setting: seeds and arms"):
        study(**changes.get(place, {place: {name: (1, 2)}}))


def test_variants_of_a_task_have_folders_and_titles_of_their_own():
    variant = replace(CARTPOLE, variant="target")
    assert variant.title == "ppo-target · CartPole-v1"
    assert len(set(folders(study(tasks=[CARTPOLE, variant])))) == 8


@pytest.mark.parametrize("name", ["ALE/Pong-v5", "my:Env-v0", "../outside", ".hidden"])
def test_a_task_is_one_folder_whatever_its_name(name):
    folder = replace(CARTPOLE, name=name).folder
    assert len(folder.parts) == 2
    assert not folder.parts[0].startswith(".")


def test_arms_of_one_norm_differ_in_options_and_settings():
    other = Arm("weight_init", "weight", {"scale": "exp"}, {"data_init": 500})
    trial = study(arms=(*ARMS, other)).trials()[2]
    assert (trial.arm.name, trial.arm.norm, trial.arm.norm_kwargs) == (
        "weight_init", "weight", {"scale": "exp"},
    )  # fmt: skip
    assert trial.settings["data_init"] == 500
    assert "scale=exp; data_init=500" in other.meaning


def test_an_arm_looks_as_its_norm_unless_it_says_otherwise():
    assert (Arm("weight").colour, Arm("weight").dash) == (
        NORMS["weight"].colour, NORMS["weight"].dash,
    )  # fmt: skip
    assert Arm("w2", "weight", colour="#123456", dash=":").colour == "#123456"


def test_a_users_own_norm_is_an_arm(monkeypatch):
    monkeypatch.setitem(NORMS, "mine", Norm("my own", colour="#abcdef"))
    assert (Arm("mine").colour, Arm("mine").meaning) == ("#abcdef", "my own")


def test_settings_of_arm_and_axis_go_before_those_of_the_task():
    task = replace(CARTPOLE, settings={"learning_rate": 1, "gamma": 1, "device": "cuda"})
    arm = Arm("weight", settings={"gamma": 2})
    trial = study(tasks=[task], arms=[arm], baseline="weight", axes={"learning_rate": [3]}).trials()
    assert trial[0].settings == {"learning_rate": 3, "gamma": 2, "device": "cuda", "threads": 1}


def test_a_budget_scales_what_says_how_long_a_run_is():
    trials = study(tasks=[CARTPOLE, DIGITS], budget=0.25).trials()
    assert trials[0].settings["total_timesteps"] == 25
    assert trials[-1].settings["epochs"] == 2


def test_trials_of_one_batch_differ_in_seed_and_in_scalars_of_members():
    trials = study(axes={"learning_rate": (1e-3, 3e-3), "n_steps": (8, 16)}).trials()
    batches = {}
    for trial in trials:
        batches.setdefault(trial.batch_key(), []).append(trial)
    assert [len(batch) for batch in batches.values()] == [4] * 4
    for batch in batches.values():
        assert len({(trial.arm.norm, trial.settings["n_steps"]) for trial in batch}) == 1


def test_arms_and_tasks_can_be_chosen():
    both = study(tasks=[replace(CARTPOLE, arms=("none",)), DIGITS])
    chosen = both.only(["weight"]).trials()
    assert {(trial.task.name, trial.arm.name) for trial in chosen} == {("digits", "weight")}
    assert {trial.task.name for trial in both.only(algos=["ppo"]).trials()} == {"CartPole-v1"}


def test_a_word_for_an_algorithm_takes_all_its_tasks_and_a_label_one_of_them():
    both = study(tasks=[CARTPOLE, replace(CARTPOLE, variant="target")])
    assert [t.label for t in both.only(algos=["ppo"]).tasks] == ["ppo", "ppo-target"]
    assert [t.label for t in both.only(algos=["ppo-target"]).tasks] == ["ppo-target"]


@pytest.mark.parametrize(
    ("norms", "algos", "message"),
    [
        (["wieght"], [], "did you mean 'weight'"),
        (["weight"], ["ppo"], "compared by no task"),
        ([], ["pppo"], "did you mean 'ppo'"),
    ],
)
def test_wrong_words_are_refused(norms, algos, message):
    both = study(tasks=[replace(CARTPOLE, arms=("none",)), DIGITS])
    with pytest.raises(UsageError, match=message):
        both.only(norms, algos)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "layer"}, "baseline must be one of none, weight, got 'layer'"),
        ({"tasks": []}, "tasks must have one entry or more, got none"),
        ({"tasks": ["CartPole-v1"]}, r"tasks\[0\] must be a Task, got 'CartPole-v1'"),
        ({"tasks": [CARTPOLE, CARTPOLE]}, "tasks must differ"),
        ({"arms": [Arm("none"), Arm("none", "weight")]}, "arms must differ, got 'none' twice"),
        ({"tasks": [replace(CARTPOLE, arms=("layer",))]}, "got 'layer'"),
        ({"seeds": []}, "seeds must have one entry or more"),
        ({"seeds": 3}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must be zero or above, got -1"),
        ({"budget": 0}, "budget must be above zero"),
        ({"budget": 0.5, "tasks": [replace(CARTPOLE, settings={})]}, "has no total_timesteps"),
        (
            {"axes": {"learning_rate": 1e-3}},
            r"axes\['learning_rate'\] must be a sequence, got 0.001",
        ),
        ({"axes": {"learning_rate": [1e-3, 1e-3]}}, "axis learning_rate must differ"),
        ({"axes": {"policy_kwargs": [{"a": 1}]}}, "values of axis policy_kwargs must be numbers"),
        ({"tuned": {"net_arch": [[{}]]}}, "values of axis net_arch must be numbers, words or tup"),
        (
            {"budget": 0.1, "axes": {"total_timesteps": (100, 200)}},
            "ppo · CartPole-v1 has its total_timesteps varied: no budget scales it",
        ),
        (
            {"arms": [Arm("none", settings={"gamma": 1})], "axes": {"gamma": [1]}},
            "gamma is an axis and a setting of arm none",
        ),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        study(**changes)


@pytest.mark.parametrize("limits", [(1.0, 1.0), (0.0, math.inf), (math.nan, 1)])
def test_limits_that_are_no_two_numbers_in_order_are_refused(limits):
    with pytest.raises(UsageError, match="limits must be two numbers in order, got"):
        replace(CARTPOLE, limits=limits)


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_a_study_whose_name_is_no_folder_is_refused(name):
    with pytest.raises(UsageError, match="a study's name becomes a folder, got"):
        study(name=name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"name": "wieght"}, "did you mean 'weight'"),
        ({"name": "a/b", "norm": "weight"}, "becomes a folder"),
        ({"name": "_plain", "norm": "none"}, "becomes a folder and a label, which no _ begins"),
        ({"name": "weight", "colour": "'><script>"}, "must be #rrggbb"),
        ({"name": "weight", "dash": "~"}, "dash of weight must be one of"),
    ],
)
def test_an_arm_that_cannot_be_drawn_or_built_is_refused(words, message):
    with pytest.raises(UsageError, match=message):
        Arm(**words)
