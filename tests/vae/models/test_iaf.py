import pytest
import torch

from tests.vae.tiny import build, images
from wnrl import NORMS, convert
from wnrl.errors import UsageError
from wnrl.vae import dreg
from wnrl.vae.models.iaf import KEEP, MADE, iaf_step
from wnrl.vae.posteriors import normal_log_prob

Z, CONTEXT = 6, 4


def made(norm="none", width=40):
    torch.manual_seed(0)
    holder = torch.nn.ModuleDict({"made": MADE(Z, CONTEXT, width)})
    convert(holder, norm)
    return holder["made"]


def jacobian(f, z):
    return torch.autograd.functional.jacobian(f, z)


@pytest.mark.parametrize("norm", ["none", "weight"])
def test_each_output_sees_the_variables_before_its_own_and_no_other(norm):
    net, context = made(norm), torch.randn(CONTEXT)
    earlier = torch.ones(Z, Z).tril(-1).bool()
    for output in (0, 1):
        slopes = jacobian(lambda z, i=output: net(z, context)[i], torch.randn(Z))
        assert (slopes[~earlier] == 0).all()
        assert (slopes[earlier] != 0).all()


def test_the_context_reaches_every_output():
    net, z = made(), torch.randn(Z)
    for output in (0, 1):
        slopes = jacobian(lambda c, i=output: net(z, c)[i], torch.randn(CONTEXT))
        assert (slopes != 0).all()


def test_one_variable_needs_no_other():
    net = MADE(1, CONTEXT, 5)
    m, s = net(torch.randn(3, 1), torch.randn(3, CONTEXT))
    assert m.shape == s.shape == (3, 1)


def test_a_step_keeps_most_of_z_at_first():
    z, m = torch.randn(5, Z), torch.randn(5, Z)
    moved, log_keep = iaf_step(z, m, torch.zeros(5, Z))
    share = torch.sigmoid(torch.tensor(KEEP))
    assert share > 0.85
    torch.testing.assert_close(moved, share * z + (1 - share) * m)
    torch.testing.assert_close(log_keep, share.log().expand(5, Z))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_log_determinant_is_that_of_autograds_whole_jacobian(norm, depth):
    model = build("conv_iaf", norm, depth=depth, latent_dim=Z, width=30)
    model = model.eval().double()
    with torch.no_grad():
        for step in model.steps:  # stronger than an untrained one
            for parameter in step.parameters():
                parameter.mul_(3)
    for seed in range(3):
        torch.manual_seed(seed)
        z, context = torch.randn(2, Z).double()
        whole = jacobian(lambda z: model.flow(z, context)[0], z)  # noqa: B023
        log_det = model.flow(z, context)[1]
        torch.testing.assert_close(log_det.sum(), torch.linalg.slogdet(whole)[1])
        assert log_det.sum().abs() > 0.1


def test_log_ratio_is_by_variable_of_the_last_z(monkeypatch):
    # With gates that keep everything, the flow only reverses the order, and q is the first normal.
    monkeypatch.setattr("wnrl.vae.models.iaf.KEEP", 60.0)
    model, x = build("conv_iaf", depth=1).eval(), images("conv_iaf")
    terms = model(x, 2, torch.Generator().manual_seed(3))
    mu, log_var = model.encode(x)
    noise = torch.randn(2, *mu.shape, generator=torch.Generator().manual_seed(3))
    z = mu + (0.5 * log_var).exp() * noise
    expected = normal_log_prob(z, mu, log_var) - normal_log_prob(z, *torch.zeros(2, 1))
    torch.testing.assert_close(terms.log_ratio, expected.flip(-1))


def test_the_flow_bends_the_posterior_of_an_image():
    model, x = build("conv_iaf", width=40).eval(), images("conv_iaf", 1)
    with torch.no_grad():
        q, context = model._encode(x)
        for step in model.steps:
            for parameter in step.parameters():
                parameter.mul_(4)
        z = model.flow(q.sample((5000,), torch.Generator().manual_seed(0)), context)[0].squeeze(1)
    off_diagonal = torch.corrcoef(z.T) - torch.eye(3)
    assert off_diagonal.abs().max() > 0.1


def test_the_masks_hold_through_training():
    model, x = build("conv_iaf", "weight"), images("conv_iaf")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (-model.log_weights(x, 1).mean()).backward()
        optimizer.step()
    step, context = model.steps[0], torch.randn(3)
    slopes = jacobian(lambda z: step(z, context)[0], torch.randn(3))
    assert (slopes.triu() == 0).all()
    assert slopes.any()


def test_dreg_is_refused():
    with pytest.raises(UsageError, match="at its own samples only"):
        dreg(build("conv_iaf"), images("conv_iaf"), 2)
