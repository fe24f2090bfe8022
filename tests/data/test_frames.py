import os
import subprocess
import sys
import threading
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch

from wnrl import data
from wnrl.data import frames
from wnrl.errors import UsageError

KEPT = "Clock-v0-64-v1.npz"


class Clock(gym.Env):
    """Draws its episode's seed and its step; an episode has ten frames."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, shape=(128, 128, 3)):
        self.render_mode, self.size = render_mode, shape

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.episode = 0, seed % 250
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), 0.0, False, self.time == 9, {}

    def render(self):
        picture = np.zeros(self.size, np.uint8)
        picture[:64] = self.episode
        picture[64:] = self.time
        return picture


@pytest.fixture
def clock(monkeypatch, tmp_path):
    monkeypatch.delenv("WNRL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(gym.registry, "Clock-v0", gym.envs.registration.EnvSpec("Clock-v0", Clock))
    monkeypatch.setattr(frames, "N_TRAIN", 25)
    monkeypatch.setattr(frames, "N_VALID", 5)
    monkeypatch.setattr(frames, "N_TEST", 5)


def test_frames_are_those_of_whole_episodes_in_order(clock, tmp_path):
    train = data.load("frames:Clock-v0", tmp_path).train
    assert train.shape == (25, 3, 64, 64)
    assert train.dtype == torch.uint8
    assert train[:, 0, 63, 0].tolist() == [*range(9), *range(9), *range(7)]
    assert train[:, 0, 0, 0].tolist() == [0] * 9 + [1] * 9 + [2] * 7


def test_no_episode_is_in_two_parts(clock, tmp_path):
    images = data.load("frames:Clock-v0", tmp_path)
    seen = [set(images.part(p)[:, 0, 0, 0].tolist()) for p in ("train", "valid", "test")]
    # Seeds 0, 1, 2; 1 000 000; 2 000 000, each modulo 250: so the episode's own number shows below.
    assert seen[0] == {0, 1, 2}
    assert [len(images.valid), len(images.test)] == [5, 5]


def test_frames_are_rendered_once(clock, tmp_path, monkeypatch):
    first = data.load("frames:Clock-v0", tmp_path)
    monkeypatch.setattr(frames, "_collect", None)
    assert torch.equal(data.load("frames:Clock-v0", tmp_path).train, first.train)


@pytest.mark.parametrize("place", ["data_dir", "WNRL_DATA", "cache"])
def test_frames_are_looked_for_in_every_usual_place_and_kept_in_the_cache(
    place, clock, tmp_path, monkeypatch
):
    data.load("frames:Clock-v0")
    cache, other = tmp_path / "cache" / "wnrl", tmp_path / "other"
    assert (cache / "frames" / KEPT).is_file()
    if place != "cache":
        (cache / "frames").rename(tmp_path / "frames")
        cache.rmdir()
        other.mkdir()
        (tmp_path / "frames").rename(other / "frames")
    if place == "WNRL_DATA":
        monkeypatch.setenv("WNRL_DATA", str(other))
    monkeypatch.setattr(frames, "_collect", None)
    data.load("frames:Clock-v0", other if place == "data_dir" else None)


def test_two_that_want_the_same_frames_at_once_render_them_once(clock, tmp_path, monkeypatch):
    collect, calls, found = frames._collect, [], []

    def counted(*args):
        calls.append(args[1:])
        return collect(*args)

    monkeypatch.setattr(frames, "_collect", counted)
    both = [
        threading.Thread(target=lambda: found.append(data.load("frames:Clock-v0", tmp_path)))
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(calls) == 3  # training, validation, testing
    assert torch.equal(found[0].train, found[1].train)


def test_ids_that_differ_in_a_sign_have_files_of_their_own(clock, tmp_path, monkeypatch):
    for name in ("a/Clock-v0", "a_Clock-v0"):
        monkeypatch.setitem(gym.registry, name, gym.envs.registration.EnvSpec(name, Clock))
        data.load(f"frames:{name}", tmp_path)
    assert len(list((tmp_path / "frames").glob("*.npz"))) == 2


def test_rendering_shows_how_far_it_is(clock, tmp_path, capsys):
    data.load("frames:Clock-v0", tmp_path)
    told = capsys.readouterr()
    assert "frames:Clock-v0: 100%" in told.err
    assert told.out == ""
    data.load("frames:Clock-v0", tmp_path)
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_rendered(
    clock, tmp_path, monkeypatch
):
    monkeypatch.setattr(frames, "_collect", None)
    (tmp_path / "frames").touch()
    with pytest.raises(UsageError, match=r"cannot be kept in .*frames: (File exists|Not a dir)"):
        data.load("frames:Clock-v0", tmp_path)


def test_a_full_disk_is_told_and_leaves_no_half_a_file(clock, tmp_path, monkeypatch):
    def full(file, array, **how):
        file.write(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(UsageError, match=r"cannot be kept in .*frames: No space left on device"):
        data.load("frames:Clock-v0", tmp_path)
    assert not [path for path in (tmp_path / "frames").iterdir() if path.stat().st_size]


def test_damaged_frames_are_refused_with_what_to_do(clock, tmp_path):
    data.load("frames:Clock-v0", tmp_path)
    path = tmp_path / "frames" / KEPT
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match="is damaged; delete it"):
        data.load("frames:Clock-v0", tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_in_the_frames_is_refused(seed, clock, tmp_path):
    data.load("frames:Clock-v0", tmp_path)
    path = tmp_path / "frames" / KEPT
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("train.npy")
    rng = np.random.default_rng(seed)  # within the pixels: zip has bytes elsewhere that say nothing
    raw[first.header_offset + 60 + rng.integers(first.compress_size - 60)] ^= 1 << rng.integers(8)
    path.write_bytes(raw)
    with pytest.raises(UsageError, match="is damaged; delete it"):
        data.load("frames:Clock-v0", tmp_path)


def test_an_environment_that_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="frames:NoSuch-v0") as refused:
        data.load("frames:NoSuch-v0", tmp_path)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_an_environment_that_renders_no_picture_is_refused(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(Clock, "render", lambda self: "text")
    with pytest.raises(UsageError, match=r"must give an image .* got str"):
        data.load("frames:Clock-v0", tmp_path)


def test_an_environment_without_a_mode_of_rendering_pictures_is_refused(
    clock, tmp_path, monkeypatch
):
    monkeypatch.setattr(Clock, "metadata", {"render_modes": ["human"]})
    with pytest.raises(UsageError, match=r"renders no rgb_array, its render_modes are \['human'\]"):
        data.load("frames:Clock-v0", tmp_path)


def test_an_environment_without_its_files_is_not_taken_for_a_full_disk(
    tmp_path, monkeypatch, clock
):
    def no_map(self, **options):
        raise FileNotFoundError("no map at /nowhere")

    monkeypatch.setattr(Clock, "__init__", no_map)
    with pytest.raises(UsageError, match="frames:Clock-v0': it cannot be made: no map at /nowhere"):
        data.load("frames:Clock-v0", tmp_path)


def test_an_environment_that_raises_is_refused_in_one_line(clock, tmp_path, monkeypatch):
    def render(self):
        raise NotImplementedError("no camera\nis on")  # as Gymnasium's own render does

    monkeypatch.setattr(Clock, "render", render)
    with pytest.raises(UsageError, match="frames:Clock-v0': no camera") as refused:
        data.load("frames:Clock-v0", tmp_path)
    assert "\n" not in str(refused.value)


def test_rendering_opens_no_display_and_complains_of_none():
    code = (
        "import os; from wnrl.data import frames; "
        "frames._collect('CartPole-v1', 3, 0, lambda: None); "
        "print(os.environ.get('SDL_VIDEODRIVER'))"
    )
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER")
    bare = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=bare
    )
    assert (done.stdout, done.stderr) == ("dummy\n", "")


def test_shape_is_known_without_rendering():
    assert data.dataset("frames:Any-v0").shape == (3, 64, 64)
