"""Infer a population with numpyro: a line with scatter behind correlated errors, NUTS.

    python fit_numpyro.py measured.npz draws.npz

Reads `mu` (N, 2) and `cov` (N, 2, 2) of magnitudes and ln sizes; writes draws of the five numbers.
The objects' true values are parameters, not centred.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro.infer import MCMC, NUTS

SETTINGS = {"sampler": "NUTS, 1 chain of 2 000 draws after 1 000", "objects": "not centred"}


def model(mu: jax.Array, cov: jax.Array) -> None:
    """The population and what was measured of it."""
    mean = numpyro.sample("mag.mean", dist.Normal(23.0, 2.0))
    sd = numpyro.sample("mag.sd", dist.LogNormal(0.0, 1.0))
    level = numpyro.sample("ln_re.mean", dist.Normal(-1.0, 2.0))
    slope = numpyro.sample("ln_re.slope", dist.Normal(0.0, 1.0))
    scatter = numpyro.sample("ln_re.scatter", dist.LogNormal(-1.0, 1.0))
    with numpyro.plate("objects", len(mu)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        mag = mean + sd * z[:, 0]
        size = level + slope * (mag - 23) + scatter * z[:, 1]
        true = jnp.stack([mag, size], 1)
        numpyro.sample("measured", dist.MultivariateNormal(true, cov), obs=mu)


def main(source: str, target: str) -> None:
    jax.config.update("jax_enable_x64", True)
    given = np.load(source)
    sampler = MCMC(NUTS(model), num_warmup=1000, num_samples=2000, progress_bar=False)
    sampler.run(jax.random.PRNGKey(1), jnp.asarray(given["mu"]), jnp.asarray(given["cov"]))
    draws = {k: np.asarray(v) for k, v in sampler.get_samples().items() if k != "z"}
    np.savez(target, **draws)


if __name__ == "__main__":
    main(*sys.argv[1:])
