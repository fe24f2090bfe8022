"""A runner whose runs, random sums, are trained as one batch; importable by worker processes."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wnrl.errors import NonFiniteError
from wnrl.runs import Batching, Meaning, Options, carry_out_batch

MEANING = Meaning(("total_timesteps",), lambda settings: settings["total_timesteps"])
FILES = ("sum.txt",)


class Sum:
    machine, identity, metrics = {"device": "cpu", "threads": 1}, {"task": "numbers"}, {}

    def __init__(self, settings, batch):
        self.random, self.total, self.settings = random.Random(settings["seed"]), 0.0, settings
        self.batch, self.total_steps = batch, settings["total_timesteps"]

    @property
    def step(self):
        return self.batch.step

    def add(self):
        self.total += self.random.random() * self.settings["scale"]

    def check(self):
        if self.total != self.total:
            raise NonFiniteError("the sum is NaN")

    def state(self):
        self.check()
        return {"step": self.step, "total": self.total, "random": self.random.getstate()}

    def restore(self, state):
        self.batch.step, self.total = state["step"], state["total"]
        self.random.setstate(state["random"])
        return ""

    def report(self):
        return {"steps": self.step}

    def measure(self, folder):
        self.check()
        (folder / "sum.txt").write_text(str(self.total))
        return {"final_return": self.total, "together": len(self.batch.members)}


class Sums:
    def __init__(self, settings, at=lambda batch: None):
        self.step, self.total_steps, self.at = 0, settings[0]["total_timesteps"], at
        self.members = [Sum(values, self) for values in settings]

    def train(self, events, between):
        while self.step < self.total_steps:
            between()
            for member, file in zip(self.members, events, strict=True):
                member.add()
                file.add_scalar("sum", member.total, self.step)
            self.step += 1
            self.at(self)


def settings(trial):
    return {"seed": trial.seed, "scale": 1.0, "norm": trial.arm.norm, **trial.settings}


def batching(trial):
    if trial.arm.norm == "batch":
        return Batching(refusal="no batch here; it takes none, weight and layer")
    return Batching(members=4, pays=trial.arm.norm != "layer")


def run(folders, configs, minutes=0.0, at=lambda batch: None, progress=lambda share: None):
    def build(places):
        return Sums([configs[place] for place in places], at)

    options = Options(resume=True, checkpoint_minutes=minutes, keep_checkpoint=False)
    return carry_out_batch(folders, configs, build, MEANING, FILES, options, progress)


def train_batch(trials, folders, progress):
    return run(folders, [settings(trial) for trial in trials], progress=progress)


def train(trial, folder, progress):
    return train_batch([trial], [folder], progress)[0]
