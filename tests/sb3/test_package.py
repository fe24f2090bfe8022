import pytest
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy

from wnrl.sb3 import with_norm

OBS = [[0.01, 0.02, 0.03, 0.04]]
LOAD = """
import sys, gymnasium, wnrl.sb3
from stable_baselines3 import PPO
from sb3_contrib import RecurrentPPO
model = vars()[sys.argv[1]].load(sys.argv[2], env=gymnasium.make("CartPole-v1"), device="cpu")
print(model.predict([[0.01, 0.02, 0.03, 0.04]], deterministic=True)[0])
model.learn(32, reset_num_timesteps=False)
"""


@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(RecurrentPPO, "WNMlpLstmPolicy"), (PPO, with_norm(ActorCriticPolicy))],
)
def test_saved_model_loads_and_resumes_in_a_process_that_imports_wnrl_sb3_alone(
    fresh, tmp_path, algorithm, policy
):
    model = algorithm(policy, "CartPole-v1", n_steps=32, batch_size=32, device="cpu", seed=0)
    model.learn(32).save(tmp_path / "model.zip")
    actions, _ = model.predict(OBS, deterministic=True)
    assert fresh(LOAD, algorithm.__name__, tmp_path / "model.zip") == f"{actions}\n"
