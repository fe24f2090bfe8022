import numpy as np
import pytest
import torch

from scripts.bench import vae as bench
from scripts.bench.vae import Args, PlainVAE, main, random_images, rows
from wnrl import vae


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("model", bench.MODELS)
def test_the_plain_loop_has_the_same_function_and_the_same_loss(model):
    config = vae.preset(model, "mnist")
    ours = vae.build(vae.VAEConfig(model, "mnist", norm="none", latent_dim=config.latent_dim))
    x = torch.rand(4, 1, 28, 28).round()
    torch.manual_seed(1)
    theirs = PlainVAE(ours).loss(x)
    torch.manual_seed(1)
    torch.testing.assert_close(-vae.elbo(ours, x).value.mean(), theirs)
    torch.manual_seed(1)
    theirs = PlainVAE(ours).log_p(x, 5)
    torch.manual_seed(1)
    torch.testing.assert_close(vae.iwae(ours, x, 5), theirs, atol=1e-3, rtol=1e-5)


def test_every_arm_of_every_task_is_in_the_table(capsys, monkeypatch):
    small = random_images(Args(images=20))
    monkeypatch.setattr(bench, "random_images", lambda args: small)
    main(Args(steps=2, images=20, n_samples=3, rounds=1))
    lines = capsys.readouterr().out.splitlines()[2:]
    arms = [line.split(" | ")[1] for line in lines[2:8]]
    assert arms == ["none", "weight", "loop"] * 2
    assert all(len(line.split("|")) == 7 for line in lines[:8])
    assert lines[8].startswith("peak memory ")


def test_a_ratio_is_the_median_within_rounds_and_one_against_oneself():
    seconds = np.array([1.0, 2.0, 4.0])
    assert list(rows("train", 400, {"none": seconds, "loop": 2 * seconds})) == [
        ("train", "none", "200", "1.00 ± 0.00", "2.00 ± 0.00"),
        ("train", "loop", "100", "0.50 ± 0.00", "1.00 ± 0.00"),
    ]


def test_the_dataloader_binarises_each_image_afresh():
    pixels = torch.full((1, 1, 28, 28), 128, dtype=torch.uint8)
    pictures = bench.Pictures(pixels)
    (first, label), (second, _) = pictures[0], pictures[0]
    assert label == 0
    assert first.shape == (1, 28, 28)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(first, second)
