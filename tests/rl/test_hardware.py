import numpy as np
import pytest
import torch
from gymnasium import spaces

from wnrl.rl.hardware import choose_device, choose_threads, is_small

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (4, 84, 84), np.uint8)


@pytest.mark.parametrize(
    ("space", "arguments", "small"),
    [
        (VECTOR, {"net_arch": [64, 64]}, True),
        (VECTOR, {"net_arch": {"pi": [256], "qf": [256, 256]}}, True),
        (VECTOR, {"net_arch": {"pi": [256], "qf": [2048]}}, False),
        (VECTOR, {"net_arch": [64], "lstm_hidden_size": 512}, False),
        (VECTOR, {}, True),
        (IMAGE, {"net_arch": []}, False),
        (spaces.Dict({"image": IMAGE, "vector": VECTOR}), {"net_arch": [8]}, False),
    ],
)
def test_images_and_wide_layers_make_a_network_large(space, arguments, small):
    assert is_small(space, arguments) is small


def test_a_small_network_gets_the_cpu_and_one_thread_a_large_one_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr("wnrl.rl.hardware.torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("wnrl.rl.hardware.resolve_device", lambda asked: torch.device("cuda", 0))
    assert choose_device("auto", small=True) == "cpu"
    assert "--device cuda overrides" in capsys.readouterr().err
    assert choose_device("auto", small=False) == choose_device("cuda", small=True) == "cuda:0"
    assert capsys.readouterr().err == ""


def test_without_a_gpu_there_is_nothing_to_remark(monkeypatch, capsys):
    monkeypatch.setattr("wnrl.rl.hardware.torch.cuda.is_available", lambda: False)
    assert choose_device("auto", small=True) == choose_device("cpu", small=True) == "cpu"
    assert capsys.readouterr().err == ""


def test_threads_that_are_asked_for_are_taken(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("wnrl.rl.hardware.os.sched_getaffinity", lambda _: set(range(64)))
    assert choose_threads(3, small=True) == 3
    assert choose_threads(None, small=True) == 1
    assert choose_threads(None, small=False) == 4


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
@pytest.mark.parametrize(("said", "chosen"), [("1", 1), ("2,1", 2), ("8", 4), ("0", 4), ("x", 4)])
def test_threads_are_never_more_than_the_environment_variables_say(monkeypatch, name, said, chosen):
    monkeypatch.setattr("wnrl.rl.hardware.os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr("wnrl.rl.hardware.os.environ", {name: said})
    assert choose_threads(None, small=False) == chosen
    assert choose_threads(6, small=False) == 6
