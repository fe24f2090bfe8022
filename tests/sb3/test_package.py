import subprocess
import sys

SAVE = """
from stable_baselines3 import PPO
from sb3_contrib import RecurrentPPO
import wnrl.sb3
algorithm, policy = {algorithm}, "{policy}"
model = algorithm(policy, "CartPole-v1", n_steps=32, batch_size=32, device="cpu", seed=0).learn(32)
model.save("{path}")
print(model.predict([[0.01, 0.02, 0.03, 0.04]], deterministic=True)[0])
"""
LOAD = """
import wnrl.sb3
from stable_baselines3 import PPO
from sb3_contrib import RecurrentPPO
model = {algorithm}.load("{path}", env=__import__("gymnasium").make("CartPole-v1"), device="cpu")
print(model.predict([[0.01, 0.02, 0.03, 0.04]], deterministic=True)[0])
model.learn(32, reset_num_timesteps=False)
"""
OWN = """
import gymnasium, wnrl.sb3
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
policy = wnrl.sb3.with_norm(ActorCriticPolicy)
model = PPO(policy, "CartPole-v1", n_steps=32, batch_size=32, device="cpu", seed=0).learn(32)
model.save("{path}")
print(model.predict([[0.01, 0.02, 0.03, 0.04]], deterministic=True)[0])
"""


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_saved_model_loads_and_resumes_in_a_process_that_imports_wnrl_sb3_alone(tmp_path):
    words = {"algorithm": "RecurrentPPO", "policy": "WNMlpLstmPolicy"}
    words["path"] = tmp_path / "model.zip"
    assert python(SAVE.format(**words)) == python(LOAD.format(**words))


def test_saved_model_of_a_class_made_by_with_norm_loads_in_another_process(tmp_path):
    words = {"algorithm": "PPO", "path": tmp_path / "model.zip"}
    assert python(OWN.format(**words)) == python(LOAD.format(**words))
