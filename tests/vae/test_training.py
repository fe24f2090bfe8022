from dataclasses import replace

import pytest
import torch

from wnrl import NORMS, data, tags
from wnrl.vae import MLPVAE, Protocol, VAEConfig, build, elbo, nll, train

CONFIG = VAEConfig(
    norm="none", hidden=(30,), latent_dim=4, epochs=None, n_steps=25, batch_size=50, n_logs=5
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def trained(config, images):
    model = build(config, images)
    return model, list(train(model, images, config))


def test_two_runs_with_one_seed_are_equal_bit_for_bit(digits):
    (first, logs), (second, again) = (trained(CONFIG, digits) for _ in range(2))
    assert [log.scalars for log in logs] == [log.scalars for log in again]
    states = first.state_dict(), second.state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_seed_decides_the_order_and_the_noise_and_not_only_the_weights(digits):
    models = [build(CONFIG, digits) for _ in range(2)]
    logs = [
        next(train(model, digits, replace(CONFIG, seed=seed))) for seed, model in enumerate(models)
    ]
    assert logs[0].scalars != logs[1].scalars


def test_training_does_not_depend_on_the_global_random_state(digits):
    torch.manual_seed(1)
    first, _ = trained(CONFIG, digits)
    torch.manual_seed(2)
    second, _ = trained(CONFIG, digits)
    assert torch.equal(first.encoder[0].weight, second.encoder[0].weight)


def test_every_norm_sees_the_same_images_and_noise_in_the_same_order(digits, monkeypatch):
    seen = {}
    encode, decode = MLPVAE.encode, MLPVAE.decode

    for norm in ("none", "batch"):
        seen[norm] = inputs, noises = [], []

        def encoding(self, x, inputs=inputs):
            inputs.append(x)
            self.posterior = encode(self, x)
            return self.posterior

        def decoding(self, z, noises=noises):
            mu, log_var = self.posterior
            noises.append((z - mu) / (0.5 * log_var).exp())
            return decode(self, z)

        monkeypatch.setattr(MLPVAE, "encode", encoding)
        monkeypatch.setattr(MLPVAE, "decode", decoding)
        trained(replace(CONFIG, norm=norm), digits)
    torch.testing.assert_close(seen["none"][0], seen["batch"][0], atol=0, rtol=0)
    torch.testing.assert_close(seen["none"][1], seen["batch"][1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_learns(norm, digits):
    config = replace(CONFIG, norm=norm, n_steps=300, learning_rate=5e-3)
    before = nll(build(config, digits), digits, Protocol("digits", n_samples=10))
    model, logs = trained(config, digits)
    after = nll(model, digits, Protocol("digits", n_samples=10))
    assert after.nll < before.nll - 0.2
    assert logs[-1].scalars[tags.VAE_VALID_ELBO] > logs[0].scalars[tags.VAE_VALID_ELBO]


def test_an_epoch_uses_every_image_at_most_once(monkeypatch):
    rows = torch.arange(20, dtype=torch.uint8).reshape(20, 1, 1, 1).expand(-1, 1, 1, 2)
    images = data.Images("rows", *[rows.contiguous()] * 3, levels=21, split="all of them")
    used = []

    def keep(likelihood, pixels, levels, generator):
        used.append(pixels[:, 0, 0, 0].tolist())
        return (pixels > 9).float()

    monkeypatch.setattr("wnrl.vae.inputs.training_inputs", keep)
    model = MLPVAE((1, 1, 2), (3,), 1)
    list(train(model, images, replace(CONFIG, n_steps=12, batch_size=6)))
    for epoch in range(4):
        drawn = [row for batch in used[3 * epoch : 3 * epoch + 3] for row in batch]
        assert len(set(drawn)) == len(drawn) == 18
    assert used[0] != used[3]


def test_logs_come_evenly_and_the_last_one_at_the_end(digits):
    _, logs = trained(replace(CONFIG, n_steps=23), digits)
    assert [log.step for log in logs] == [4, 8, 12, 16, 20, 23]
    assert {log.total_steps for log in logs} == {23}
    seconds = [log.seconds for log in logs]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_time_between_two_logs_is_not_counted_as_training(digits):
    model = build(CONFIG, digits)
    clock = [0.0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: clock[0])
        seconds = []
        for log in train(model, digits, CONFIG):
            seconds.append(log.seconds)
            clock[0] += 100.0  # whatever the caller does with a log
    assert seconds == [0] * 5


def test_logged_training_bound_is_the_mean_since_the_last_log(digits, monkeypatch):
    values = []

    def watched(model, x, n_samples=1, generator=None):
        bound = elbo(model, x, n_samples, generator)
        if model.training:
            values.append(bound.value.mean().item())
        return bound

    monkeypatch.setattr("wnrl.vae.objectives.elbo", watched)
    _, logs = trained(CONFIG, digits)
    for i, log in enumerate(logs):
        since = values[5 * i : 5 * i + 5]
        assert log.scalars[tags.VAE_TRAIN_ELBO] == pytest.approx(sum(since) / 5, rel=1e-5)


def test_logged_bound_is_reconstruction_minus_kl(digits):
    _, logs = trained(CONFIG, digits)
    for split in ("train", "valid"):
        values = [logs[-1].scalars[f"vae/{split}_{part}"] for part in ("reconstruction", "kl")]
        assert logs[-1].scalars[f"vae/{split}_elbo"] == pytest.approx(values[0] - values[1])


def test_weight_norm_logs_its_lengths_and_plain_layers_have_none(digits):
    _, weight = trained(replace(CONFIG, norm="weight"), digits)
    _, plain = trained(CONFIG, digits)
    assert f"{tags.NORM_G}/encoder.0.weight" in weight[0].scalars
    assert not any(tag.startswith(tags.NORM_G) for tag in plain[0].scalars)


def test_projected_rows_stay_on_the_unit_sphere(digits):
    model, _ = trained(replace(CONFIG, norm="projected"), digits)
    lengths = model.encoder[0].weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_learning_rate_ends_where_the_schedule_says(digits):
    _, logs = trained(CONFIG, digits)
    assert logs[-1].scalars[tags.LEARNING_RATE] == pytest.approx(0.05 * CONFIG.learning_rate)
