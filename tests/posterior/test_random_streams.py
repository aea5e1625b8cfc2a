"""Random numbers belong to an object and to nothing else."""

import torch

from autofit_ml.posterior.random_streams import RandomStreams


def test_independent_of_the_batch():
    keys = torch.tensor([5, 17, 3, 2**40, -1])
    together = RandomStreams(11, keys).normal(2, 7, 4, 3)
    for i in range(len(keys)):
        assert torch.equal(RandomStreams(11, keys[i : i + 1]).normal(2, 7, 4, 3)[0], together[i])
    assert torch.equal(
        RandomStreams(11, keys).select(torch.tensor([3])).normal(2, 7, 4, 3)[0], together[3]
    )


def test_everything_changes_the_numbers():
    base = RandomStreams(0, torch.arange(4)).uniform(0, 0, 8)
    others = [
        RandomStreams(1, torch.arange(4)).uniform(0, 0, 8),
        RandomStreams(0, torch.arange(4) + 4).uniform(0, 0, 8),
        RandomStreams(0, torch.arange(4)).uniform(1, 0, 8),
        RandomStreams(0, torch.arange(4)).uniform(0, 1, 8),
    ]
    every = torch.cat([base, *others])
    assert len(every.unique()) == every.numel()


def test_distribution():
    # One number from each of many steps and keys: what a sampler uses.
    streams = RandomStreams(3, torch.arange(2000))
    x = torch.stack([streams.normal(1, step, 2) for step in range(50)])  # (50, 2000, 2)
    n = x.numel()
    assert abs(x.mean()) < 4 / n**0.5
    assert abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5
    pairs = (x[1:] * x[:-1]).mean(), (x[:, 1:] * x[:, :-1]).mean(), (x[..., 0] * x[..., 1]).mean()
    assert all(abs(p) < 4.5 / (n / 2) ** 0.5 for p in pairs)
    u = streams.uniform(0, 0, 50)
    counts = torch.histc(u, 20, 0, 1)
    assert ((counts - 5000).square() / 5000).sum() < 45  # chi2 with 19 degrees of freedom
    assert u.min() > 0
    assert u.max() < 1
