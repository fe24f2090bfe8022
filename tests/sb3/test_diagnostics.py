import copy
import functools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    KVWriter,
    Logger,
)

from wnrl import WNLinear
from wnrl.diagnostics import effective_weights, preserve_state, relative_change
from wnrl.errors import UsageError
from wnrl.sb3 import Diagnostics, callbacks, probe
from wnrl.sb3.common import find_optimizers
from wnrl.sb3.parts import trained_parts

ROLLOUT = {"n_steps": 16, "batch_size": 8, "n_epochs": 2}
REPLAY = {"learning_starts": 8, "batch_size": 8, "buffer_size": 200}
CARTPOLE, PENDULUM = "CartPole-v1", "Pendulum-v1"
CASES = {
    "ppo-stock": (PPO, "MlpPolicy", CARTPOLE, ROLLOUT, None),
    "ppo-none": (PPO, "WNMlpPolicy", CARTPOLE, ROLLOUT, "none"),
    "ppo-weight": (PPO, "WNMlpPolicy", CARTPOLE, ROLLOUT, "weight"),
    "ppo-batch": (PPO, "WNMlpPolicy", CARTPOLE, ROLLOUT, "batch"),
    "ppo-layer": (PPO, "WNMlpPolicy", CARTPOLE, ROLLOUT, "layer"),
    "ppo-spectral": (PPO, "WNMlpPolicy", CARTPOLE, ROLLOUT, "spectral"),
    "ppo-projected": (PPO, "WNMlpPolicy", CARTPOLE, ROLLOUT, "projected"),
    "ppo-sde": (PPO, "WNMlpPolicy", PENDULUM, {**ROLLOUT, "use_sde": True}, "weight"),
    "a2c-weight": (A2C, "WNMlpPolicy", CARTPOLE, {}, "weight"),
    "trpo-weight": (TRPO, "WNMlpPolicy", CARTPOLE, {"n_steps": 16, "batch_size": 8}, "weight"),
    "trpo-batch": (TRPO, "WNMlpPolicy", CARTPOLE, {"n_steps": 16, "batch_size": 8}, "batch"),
    "maskable-weight": (MaskablePPO, "WNMlpPolicy", None, ROLLOUT, "weight"),
    "recurrent-weight": (RecurrentPPO, "WNMlpLstmPolicy", CARTPOLE, ROLLOUT, "weight"),
    "recurrent-batch": (RecurrentPPO, "WNMlpLstmPolicy", CARTPOLE, ROLLOUT, "batch"),
    "dqn-weight": (DQN, "WNMlpPolicy", CARTPOLE, REPLAY, "weight"),
    "dqn-batch": (DQN, "WNMlpPolicy", CARTPOLE, REPLAY, "batch"),
    "qrdqn-weight": (QRDQN, "WNMlpPolicy", CARTPOLE, REPLAY, "weight"),
    "sac-weight": (SAC, "WNMlpPolicy", PENDULUM, REPLAY, "weight"),
    "sac-batch": (SAC, "WNMlpPolicy", PENDULUM, REPLAY, "batch_renorm"),
    "sac-sde": (SAC, "WNMlpPolicy", PENDULUM, {**REPLAY, "use_sde": True}, "none"),
    "td3-weight": (TD3, "WNMlpPolicy", PENDULUM, REPLAY, "weight"),
    "tqc-weight": (TQC, "WNMlpPolicy", PENDULUM, REPLAY, "weight"),
    "crossq-weight": (CrossQ, "WNMlpPolicy", PENDULUM, REPLAY, "weight"),
    "crossq-batch": (CrossQ, "WNMlpPolicy", PENDULUM, REPLAY, "batch_renorm"),
}
CURVED = {PPO, MaskablePPO, RecurrentPPO, A2C, DQN}


class Recorder(KVWriter):
    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        if any(tag.startswith("update_effective_lr") for tag in key_values):
            self.rows.append({"step": step, **key_values})

    def close(self):
        pass


class Each(BaseCallback):
    """Calls functions at the end and at the start of rollouts."""

    def __init__(self, at_end=lambda model: None, at_start=lambda model: None):
        super().__init__()
        self.at_end, self.at_start = at_end, at_start

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.at_end(self.model)

    def _on_rollout_start(self):
        self.at_start(self.model)


def make(case, norm_kwargs=None, **others):
    algorithm, policy, env, arguments, norm = CASES[case]
    env = InvalidActionEnvDiscrete(dim=4, n_invalid_actions=1) if env is None else env
    policy_kwargs = {"net_arch": [8, 8]} | ({} if norm is None else {"norm": norm})
    if algorithm is RecurrentPPO:
        policy_kwargs["lstm_hidden_size"] = 4
    if algorithm is QRDQN:
        policy_kwargs["n_quantiles"] = 5
    policy_kwargs |= others.pop("policy_kwargs", {})
    arguments = {**arguments, "policy_kwargs": policy_kwargs, **others}
    model = algorithm(policy, env, seed=3, device="cpu", **arguments)
    recorder = Recorder()
    model.set_logger(Logger(None, [recorder]))
    return model, recorder


@functools.cache
def watched(case):
    """A model after 64 steps under watch, the rows that it logged, and the random state then."""
    model, recorder = make(case)
    model.learn(64, Diagnostics(every=16, curvature=CASES[case][0] in CURVED))
    return model, recorder.rows, random_state()


def random_state():
    return torch.rand(3).tolist(), np.random.rand(3).tolist()  # noqa: NPY002


@pytest.mark.parametrize("case", CASES)
def test_training_is_the_same_bit_for_bit(case):
    model, _, state = watched(case)
    unwatched, _ = make(case)
    unwatched.learn(64)
    assert random_state() == state
    modes = [part.training for part in model.policy.modules()]
    assert modes == [part.training for part in unwatched.policy.modules()]
    ours, theirs = model.policy.state_dict(), unwatched.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for (_, found), (_, expected) in zip(
        find_optimizers(model.policy), find_optimizers(unwatched.policy), strict=True
    ):
        assert str(found.state_dict()) == str(expected.state_dict())


@pytest.mark.parametrize("case", ["td3-weight", "crossq-weight"])
def test_an_actor_that_learns_in_few_updates_has_its_curves_in_every_row(case):
    # Where an update is one gradient step, `policy_delay` leaves the actor out of most of them.
    model, recorder = make(case, learning_starts=9)
    model.learn(64, Diagnostics(every=16))
    assert [row["step"] for row in recorder.rows] == [10, 16, 32, 48, 64]
    parts = model.actor.named_modules(prefix="actor")
    layers = [name for name, part in parts if isinstance(part, (WNLinear, torch.nn.Linear))]
    assert len(layers) >= 3
    for row in recorder.rows[:-1]:  # training ends before the actor learns again
        assert {f"update_effective_lr/{layer}.weight" for layer in layers} <= row.keys()
        assert {f"update_grad_norm/{layer}" for layer in layers} <= row.keys()
    assert all("update_effective_lr/critic.qf0.0.weight" in row for row in recorder.rows)


@pytest.mark.parametrize("case", CASES)
def test_every_trained_layer_has_its_curves(case):
    model, rows, _ = watched(case)
    tags = {tag for row in rows for tag in row}
    weights = effective_weights(trained_parts(model.policy))
    assert weights
    for weight in weights:
        layer = weight.rpartition(".")[0]
        assert f"update_effective_lr/{weight}" in tags
        policy_of_trpo = "trpo" in case and "value" not in layer
        assert (f"update_grad_norm/{layer}" in tags) != policy_of_trpo
        assert (f"norm/g/{weight}" in tags) == (f"norm/v/{weight}" in tags)
    assert not [tag for tag in tags if "_target" in tag]
    n_lengths = sum(tag.startswith("norm/g/") for tag in tags)
    assert (n_lengths > 0) == ("weight" in case or case == "ppo-sde")


@pytest.mark.parametrize("case", CASES)
def test_values_are_finite_and_in_their_ranges(case):
    _, rows, _ = watched(case)
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        shares = [v for tag, v in row.items() if tag.startswith(("units_dormant/", "units_dead/"))]
        ranks = [v for tag, v in row.items() if tag.startswith("units_rank/")]
        assert shares
        assert ranks
        assert all(0 <= share <= 1 for share in shares)
        assert all(0 <= rank <= 8 and rank == int(rank) for rank in ranks)
        changes = [v for tag, v in row.items() if tag.startswith("update_effective_lr/")]
        assert min(changes) >= 0
        assert max(changes) > 0


@pytest.mark.parametrize(
    ("case", "heads"),
    [
        ("ppo-weight", {"action_net", "value_net"}),
        ("recurrent-weight", {"action_net", "value_net"}),
        ("dqn-weight", {"q_net.q_net.4"}),
        ("qrdqn-weight", {"quantile_net.quantile_net.4"}),
        ("sac-weight", {"actor.mu", "critic.qf0.4", "critic.qf1.4"}),
        ("td3-weight", {"actor.mu.4", "critic.qf0.4", "critic.qf1.4"}),
        ("tqc-weight", {"actor.mu", "critic.qf0.4", "critic.qf1.4"}),
    ],
)
def test_ranks_are_those_of_what_enters_the_output_layers(case, heads):
    _, rows, _ = watched(case)
    assert {tag.partition("/")[2] for tag in rows[-1] if tag.startswith("units_rank/")} == heads


def test_hidden_layers_are_watched_and_a_squashed_output_is_not():
    _, rows, _ = watched("td3-weight")
    hidden = {tag.partition("/")[2] for tag in rows[-1] if tag.startswith("units_dead/")}
    assert hidden == {f"{part}.{i}" for part in ("actor.mu", "critic.qf0", "critic.qf1")
                      for i in (1, 3)}  # fmt: skip


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0] in CURVED])
def test_curvature_is_logged_for_losses_of_one_network(case):
    _, rows, _ = watched(case)
    for row in rows:
        assert row["update_curvature/largest"] >= row["update_curvature/smallest"]
        assert row["update_curvature/condition"] >= 1


ALONE = [f"ppo-{norm}" for norm in ("stock", "none", "weight", "layer", "projected")]
ALONE += [f"{algorithm}-weight" for algorithm in ("a2c", "trpo", "maskable", "recurrent")]


@pytest.mark.parametrize("case", ALONE)
def test_a_policy_that_treats_examples_alone_learns_where_it_acted(case):
    _, rows, _ = watched(case)
    assert all(abs(row["norm/pre_update_kl"]) < 1e-9 for row in rows)
    assert all(row.get("norm/pre_update_clip_fraction", 0) == 0 for row in rows)


@pytest.mark.parametrize("case", ["ppo-batch", "recurrent-batch"])
def test_the_pre_update_divergence_is_what_sb3_logs_of_an_update_of_one_minibatch(case):
    model, recorder = make(case, n_epochs=1, batch_size=16)
    seen = []

    def keep(model):
        values = model.logger.name_to_value
        if "train/approx_kl" in values:
            seen.append((values["train/approx_kl"], values["train/clip_fraction"]))

    model.learn(64, [Each(at_start=keep), Diagnostics(every=16)], log_interval=1)
    rows = [(r["norm/pre_update_kl"], r["norm/pre_update_clip_fraction"]) for r in recorder.rows]
    assert len(seen) >= 3
    assert rows[: len(seen)] == [pytest.approx(pair, abs=1e-6) for pair in seen]
    assert max(kl for kl, _ in rows) > 1e-5


def test_gradient_norms_are_those_before_sb3_clips(monkeypatch):
    totals, clip = [], torch.nn.utils.clip_grad_norm_

    def spy(*args):
        totals.append(clip(*args).item())

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    model, recorder = make("ppo-weight", max_grad_norm=1e-3)
    model.learn(16, Diagnostics(every=16))
    squares = [v**2 for tag, v in recorder.rows[0].items() if tag.startswith("update_grad_norm/")]
    assert totals[0] > 0.1
    assert math.sqrt(sum(squares)) == pytest.approx(totals[0])


@pytest.mark.parametrize("case", ["ppo-weight", "trpo-weight", "dqn-weight"])
def test_effective_learning_rate_of_an_update_of_one_step_is_the_update(case):
    one_step = {"ppo-weight": {"n_epochs": 1, "batch_size": 16}}.get(case, {})
    model, recorder = make(case, **one_step)
    before, changes = {}, []

    def at_end(model):
        before.update(effective_weights(trained_parts(model.policy)))

    def at_start(model):
        if before:
            now = effective_weights(trained_parts(model.policy))
            changes.append({k: v.item() for k, v in relative_change(before, now).items()})

    model.learn(32, [Diagnostics(every=1), Each(at_end, at_start)])
    for row in recorder.rows[:-1]:  # the last update has no rollout behind it
        logged = {
            t.partition("/")[2]: v for t, v in row.items() if t.startswith("update_effective_lr/")
        }
        assert any(logged == pytest.approx(change) for change in changes)


@pytest.mark.parametrize(
    "case",
    ["ppo-weight", "a2c-weight", "maskable-weight", "recurrent-weight", "dqn-weight",
     "dqn-batch"],
)  # fmt: skip
def test_the_loss_that_bends_has_the_gradient_that_sb3_descends(case, monkeypatch):
    def slope(model, data):
        probe.set_mode(model, True)
        loss = probe.loss_of(model)(model, data)
        parameters = list(trained_parts(model.policy).parameters())
        grads = torch.autograd.grad(loss, parameters)
        return {"slope": torch.cat([grad.flatten() for grad in grads]).norm().item()}

    monkeypatch.setattr(callbacks, "curvatures", slope)
    others = {"ent_coef": 0.01} if "ent_coef" in vars(make(case)[0]) else {}
    model, recorder = make(case, **others)
    model.learn(48, Diagnostics(every=16, curvature=True))
    for row in recorder.rows:
        squares = [v**2 for tag, v in row.items() if tag.startswith("update_grad_norm/")]
        assert math.sqrt(sum(squares)) == pytest.approx(row["slope"], rel=1e-4)


def test_dead_units_are_counted():
    model, recorder = make("dqn-weight")
    with torch.no_grad():
        model.policy.q_net.q_net[0].bias[:4] = -1e3
    model.learn(16, Diagnostics(every=16))
    assert recorder.rows[0]["units_dead/q_net.q_net.1"] >= 0.5
    assert recorder.rows[0]["units_dormant/q_net.q_net.1"] >= 0.5


@pytest.mark.parametrize("case", ["ppo-weight", "dqn-weight"])
def test_points_stand_at_the_first_update_after_each_multiple(case):
    model, recorder = make(case)
    model.learn(96, Diagnostics(every=40))
    first = 16 if case == "ppo-weight" else 12  # DQN learns every 4 steps, here after the 8th
    assert [row["step"] for row in recorder.rows] == [
        first,
        *((48, 80) if first == 16 else (40, 80)),
    ]


@pytest.mark.parametrize(
    "stop", [4, 48]
)  # before the first update, which is after step 8, or later
def test_a_run_in_two_parts_has_the_points_of_a_whole_one(stop):
    whole, expected = make("dqn-weight")
    whole.learn(96, Diagnostics(every=40))
    parts, recorder = make("dqn-weight")
    parts.learn(stop, Diagnostics(every=40))
    parts.learn(96 - stop, Diagnostics(every=40), reset_num_timesteps=False)
    assert [r["step"] for r in recorder.rows] == [r["step"] for r in expected.rows]


def test_a_second_run_from_zero_begins_with_a_point():
    model, recorder = make("ppo-weight")
    callback = Diagnostics(every=1000)
    for _ in range(2):
        model.learn(32, callback)
    assert [row["step"] for row in recorder.rows] == [16, 16]


def test_points_have_their_own_rows_and_what_sb3_collects_stays():
    model, recorder = make("ppo-weight")
    rows = []
    recorder.write = lambda values, excluded, step=0: rows.append((step, dict(values)))
    model.learn(32, Diagnostics(every=16), log_interval=1)
    ours = [(step, row) for step, row in rows if "units_rank/action_net" in row]
    theirs = [(step, row) for step, row in rows if "time/fps" in row]
    assert [step for step, _ in ours] == [step for step, _ in theirs] == [16, 32]
    assert "train/loss" in theirs[1][1]
    assert not any("train/loss" in row for _, row in ours)


def test_tables_get_the_values_and_the_console_does_not(tmp_path):
    model, recorder = make("sac-weight")
    console = (tmp_path / "log.txt").open("w")
    csv = CSVOutputFormat(str(tmp_path / "progress.csv"))
    model.set_logger(Logger(None, [HumanOutputFormat(console), csv, recorder]))
    model.learn(16, Diagnostics(every=16))
    model.logger.close()
    console.close()
    assert "units_rank/actor.mu" in (tmp_path / "progress.csv").read_text()
    assert "rank" not in (tmp_path / "log.txt").read_text()


def test_other_callbacks_find_the_rollout_as_it_was_collected():
    model = PPO("MultiInputPolicy", SimpleMultiObsEnv(), n_steps=8, batch_size=4, device="cpu",
                policy_kwargs={"net_arch": [4]})  # fmt: skip
    shapes = []

    def look(model):
        buffer = model.rollout_buffer
        shapes.append({key: obs.shape[:2] for key, obs in buffer.observations.items()})
        shapes.append({"actions": buffer.actions.shape[:2]})

    recorder = Recorder()
    model.set_logger(Logger(None, [recorder]))
    model.learn(16, [Diagnostics(every=8), Each(look)])
    assert len(recorder.rows) == 2
    assert all(shape == (8, 1) for found in shapes for shape in found.values())


def test_data_dependent_initialisation_is_left_to_the_update():
    trained = []
    for callback in (None, Diagnostics(every=8, curvature=True)):
        model, _ = make("ppo-weight", policy_kwargs={"data_init": 16})
        model.learn(32, callback)
        trained.append(copy.deepcopy(model.policy.state_dict()))
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    assert trained[1]["data_initialised"]


def test_units_are_counted_before_the_statistics_of_batch_norm_move():
    momentum = {"norm_kwargs": {"momentum": 1.0}, "activation_fn": torch.nn.ReLU}
    model, recorder = make("ppo-batch", policy_kwargs=momentum)
    expected = []

    def look(model):
        with preserve_state(model.policy), torch.no_grad():
            draw = probe.drawer(model)
            draw(probe.update_rows(model))
            expected.append(callbacks.activations(model, draw(callbacks.ROWS)))

    model.learn(32, [Each(look), Diagnostics(every=16)])
    assert len(recorder.rows) == len(expected) == 2
    for row, scalars in zip(recorder.rows, expected, strict=True):
        assert {tag: row[tag] for tag in scalars} == {tag: float(v) for tag, v in scalars.items()}


@pytest.mark.parametrize(
    ("case", "kwargs"),
    [
        ("ppo-spectral", {}),
        ("ppo-batch", {"norm": "batch_renorm", "norm_kwargs": {"warmup_steps": 0, "r_steps": 1,
                                                               "d_steps": 1}}),
    ],
)  # fmt: skip
def test_curvature_is_that_of_the_state_that_the_update_begins_with(case, kwargs, monkeypatch):
    logged = []
    for forward_before in (True, False):
        model, recorder = make(case, policy_kwargs=kwargs)
        if not forward_before:
            monkeypatch.setattr(callbacks, "pre_update", lambda model, data: {})
        model.learn(32, Diagnostics(every=16, curvature=True))
        logged.append([row["update_curvature/largest"] for row in recorder.rows])
    assert logged[0] == logged[1]


def hooks(model):
    found = [p._post_accumulate_grad_hooks for p in model.policy.parameters()]
    for _, optimizer in find_optimizers(model.policy):
        found += [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    return sum(len(some) for some in found if some)


def test_no_hook_is_left_behind_even_by_a_run_that_broke():
    model, recorder = make("ppo-none")
    before = hooks(model)

    def fail(model):
        if model.num_timesteps:
            raise ZeroDivisionError

    callback = Diagnostics(every=16)
    with pytest.raises(ZeroDivisionError):
        model.learn(64, [Each(at_start=fail), callback])
    assert hooks(model) > before
    model.learn(32, callback)
    assert hooks(model) == before
    assert len(recorder.rows) == 2


@pytest.mark.parametrize("every", [0, -1, 1.5, "10", True])
def test_every_must_be_a_number_of_steps(every):
    with pytest.raises(UsageError, match=r"every must be (a whole number|above zero), got"):
        Diagnostics(every=every)


@pytest.mark.parametrize(("case", "name"), [("sac-weight", "SAC"), ("qrdqn-weight", "QRDQN")])
def test_curvature_is_refused_where_there_is_no_loss_for_it(case, name):
    model, _ = make(case)
    with pytest.raises(UsageError, match=rf"curvature needs one of PPO, .*DQN, got {name}$"):
        model.learn(16, Diagnostics(curvature=True))


def test_algorithms_without_rollouts_are_refused():
    model = ARS("LinearPolicy", gym.make(CARTPOLE), n_delta=1, device="cpu")
    with pytest.raises(UsageError, match=r"Diagnostics needs an on- or off-policy .*, got ARS"):
        model.learn(10, Diagnostics())
