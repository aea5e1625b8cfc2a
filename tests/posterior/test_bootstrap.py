"""Bootstraps of a linear model, where the estimator's covariance is known exactly."""

import pytest
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior import BootstrapSettings, bootstrap
from autofit_ml.posterior.bootstrap import resampled
from autofit_ml.posterior.random_streams import RandomStreams

NY = NX = 48
D = 3


def design():
    """Images that the parameters multiply: a blob, a wide blob, a flat sky."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (NY, NX)), indexing="ij")
    r2 = (y - 23.5) ** 2 + (x - 23.5) ** 2
    return torch.stack([(-r2 / 30).exp(), (-r2 / 200).exp(), torch.ones(NY, NX).double()])


def least_squares(weight):
    """Estimator matrix (D, pixels) and a refit with it."""
    a = design().flatten(1)
    estimator = torch.linalg.solve((a * weight.flatten()) @ a.T, a * weight.flatten())

    def refit(index, data):
        theta = data.flatten(1).double() @ estimator.T
        return theta, torch.ones(len(data), dtype=torch.bool)

    return estimator, refit


def run(refit, estimator, noise, settings, **more):
    truth = (torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64) @ design().flatten(1)).view(NY, NX)
    data = truth + noise
    theta = data.flatten(1) @ estimator.T
    model = (theta @ design().flatten(1)).view_as(data)
    good = torch.ones_like(data, dtype=torch.bool)
    return theta, bootstrap(refit, data, model, good, D, settings, **more)


def mean_covariance(samples):
    """Bootstrap covariance, averaged over the objects."""
    draws = samples.draws[:, 0]
    offset = draws - draws.mean(1, keepdim=True)
    return (offset.mT @ offset / (draws.shape[1] - 1)).mean(0)


def relative(found, expected):
    sd = expected.diagonal().sqrt()
    return (found - expected) / (sd[:, None] * sd[None, :])


@pytest.mark.parametrize("scheme", ["wild", "block", "parametric"])
def test_white_noise(scheme):
    b, r = 24, 150
    generator = torch.Generator().manual_seed(1)
    noise = 0.5 * torch.randn(b, NY, NX, generator=generator, dtype=torch.float64)
    estimator, refit = least_squares(torch.ones(NY, NX, dtype=torch.float64))
    sigma = torch.full((b, NY, NX), 0.5, dtype=torch.float64)
    settings = BootstrapSettings(replicates=r, scheme=scheme, block=4)
    theta, samples = run(refit, estimator, noise, settings, sigma=sigma)
    expected = 0.25 * estimator @ estimator.T  # what Laplace says
    error = relative(mean_covariance(samples), expected).abs().max()
    # 24 x 150 replicates: 2.4 %; few blocks cover the blob: each estimate scatters by 20 %.
    assert error < (0.25 if scheme == "block" else 0.12)
    assert (samples.draws[:, 0].mean(1) - theta).abs().max() < 5 * expected.max().sqrt() / r**0.5
    assert (samples.accept == 1).all()


def test_the_noise_map_may_be_wrong():
    """Photon noise in the core that the weights do not know of: the sandwich, not Laplace."""
    b, r = 24, 150
    sigma = 0.3 + 2.0 * design()[0]
    generator = torch.Generator().manual_seed(2)
    noise = sigma * torch.randn(b, NY, NX, generator=generator, dtype=torch.float64)
    estimator, refit = least_squares(torch.ones(NY, NX, dtype=torch.float64))
    expected = (estimator * sigma.flatten() ** 2) @ estimator.T
    settings = BootstrapSettings(replicates=r)
    _, samples = run(refit, estimator, noise, settings)
    assert relative(mean_covariance(samples), expected).abs().max() < 0.15
    naive = 0.3**2 * estimator @ estimator.T
    assert naive[0, 0] < 0.2 * expected[0, 0]


def test_correlated_noise_needs_blocks():
    b, r = 24, 150
    generator = torch.Generator().manual_seed(3)
    white = torch.randn(b, 1, NY + 2, NX + 2, generator=generator, dtype=torch.float64)
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64) / 3
    noise = torch.nn.functional.conv2d(white, kernel)[:, 0]
    estimator, refit = least_squares(torch.ones(NY, NX, dtype=torch.float64))
    smeared = torch.nn.functional.conv_transpose2d(estimator.view(D, 1, NY, NX), kernel)[:, 0]
    expected = smeared.flatten(1) @ smeared.flatten(1).T
    ratios = []
    for scheme in ("wild", "block"):
        settings = BootstrapSettings(replicates=r, scheme=scheme, block=8)
        _, samples = run(refit, estimator, noise, settings)
        ratios.append((mean_covariance(samples).diagonal() / expected.diagonal()).sqrt())
    assert (ratios[0] < 0.5).all()  # signs of single pixels: errors three times too small
    # Blocks of 8 keep 1 - 1/8 of the next pixel's correlation and 3/4 of the one after that; under
    # the blob the fit has taken some of the noise with it.
    assert (ratios[1] > 0.6).all()
    assert (ratios[1] < 1.05).all()
    assert ratios[1][2] > 0.8


def test_resampled_noise_keeps_its_place():
    residual = torch.arange(1.0, 101.0).view(1, 10, 10)
    streams = RandomStreams(0, torch.arange(1))
    for scheme in ("wild", "block"):
        settings = BootstrapSettings(scheme=scheme, block=3)
        made = [resampled(residual, streams, settings, k) for k in range(50)]
        assert all(torch.equal(image.abs(), residual) for image in made)
        assert torch.stack(made).sign().mean(0).abs().max() < 0.75
    # Pixels in one block share their sign: with blocks of 3 at least 4 of 9 neighbours do.
    signs = torch.stack(made).sign()[:, 0]
    same = (signs[:, :, 1:] == signs[:, :, :-1]).double().mean()
    assert abs(same - (1 - 1 / 3 / 2)) < 0.05  # two of three pairs in a block, half of the others


def test_failed_refits_and_masks():
    data = torch.zeros(3, 8, 8, dtype=torch.float64)
    data[0] = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double()
    data[0, 0, 0] = 1e9  # masked
    data[2, 1, 1] = torch.nan
    good = torch.ones_like(data, dtype=torch.bool)
    good[:, 0, 0] = False
    seen = []

    def refit(index, images):
        seen.append((index, images))
        mean = (images * good[index]).sum((1, 2))[:, None]
        return mean, torch.arange(len(index)) % 2 == 0

    settings = BootstrapSettings(replicates=10, at_once=4)
    samples = bootstrap(refit, data, torch.zeros_like(data), good, 1, settings)
    assert samples.ok.tolist() == [True, True, False]
    assert samples.accept.tolist() == [0.5, 0.5, 0.0]
    draws = samples.draws[0, 0, :, 0]
    draws = draws[torch.isfinite(draws)]
    assert len(draws) == 5
    assert max(len(index) for index, _ in seen) <= 4
    images = torch.cat([images[index == 0] for index, images in seen])
    assert len(images) == 10
    assert (images[:, 0, 0] == 1e9).all()
    assert draws.abs().max() < 100


def test_alone_or_in_a_batch():
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(4, NY, NX, generator=generator, dtype=torch.float64)
    estimator, refit = least_squares(torch.ones(NY, NX, dtype=torch.float64))
    settings = BootstrapSettings(replicates=6)
    _, together = run(refit, estimator, noise, settings)
    _, alone = run(refit, estimator, noise[2:3], settings, keys=torch.tensor([2]))
    # The refit's matrix products round differently in another batch; the data are the same.
    torch.testing.assert_close(alone.draws[0], together.draws[2], rtol=1e-12, atol=0)


def test_wrong_use():
    zeros = torch.zeros(1, 4, 4)
    for wrong in ({"scheme": "pairs"}, {"replicates": 1}, {"block": 0}):
        with pytest.raises(SettingsError):
            BootstrapSettings(**wrong)
    with pytest.raises(SettingsError, match="sigma"):
        bootstrap(
            lambda i, d: (d, i > 0),
            zeros,
            zeros,
            zeros == 0,
            1,
            BootstrapSettings(scheme="parametric"),
        )
