"""Make the environments of the peers that the benchmarks compare with.

    python benchmarks/peers/install.py [PEER ...]

Several, since their requirements conflict: benchmarks/.env (pyimfit, AstroPhot, GALMOSS), .env-jax
(pysersic, numpyro), .env-petrofit (PetroFit), .env-astropy (statmorph; sep with SciPy), .env-sfft
and .env-properimage (image subtraction). A second run changes nothing. About 8 GB and a few
minutes, most of it PyTorch in the first.
"""

from __future__ import annotations

import argparse
import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = {
    ".env": "requirements.txt",
    ".env-jax": "requirements-jax.txt",
    ".env-petrofit": "requirements-petrofit.txt",
    ".env-astropy": "requirements-astropy.txt",
    ".env-sfft": "requirements-sfft.txt",
    ".env-properimage": "requirements-properimage.txt",
}
"""Folder in benchmarks/ -> its requirements, in this folder."""
PEERS = {
    "pyimfit": ".env",
    "astrophot": ".env",
    "galmoss": ".env",
    "pysersic": ".env-jax",
    "numpyro": ".env-jax",
    "petrofit": ".env-petrofit",
    "statmorph": ".env-astropy",
    "scipy": ".env-astropy",
}
"""Peer (of fit_PEER.py) -> its environment."""
SUBTRACTERS = {"sfft": ".env-sfft", "properimage": ".env-properimage"}
"""The same for those that subtract images (subtract_PEER.py)."""
EVERY = PEERS | SUBTRACTERS
BY_HAND = ("pyimfit", "tinynpydb", "properimage")
"""Packages that are built with what else their environment has."""


def install(peer: str = "pyimfit") -> Path:
    """Install a peer's environment if it is not there; its interpreter."""
    environment = HERE.parent / EVERY[peer]
    python, done = environment / "bin" / "python", environment / "installed.txt"
    wanted = (HERE / ENVIRONMENTS[environment.name]).read_text()
    if python.exists() and done.exists() and done.read_text() == wanted:
        return python
    if not python.exists():
        venv.create(environment, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    lines = [line for line in wanted.splitlines() if line and not line.startswith("#")]
    compiled = [line for line in lines if line.startswith(BY_HAND)]
    rest = [line for line in lines if line not in compiled]
    subprocess.run([*pip, *rest], check=True)
    if compiled:  # their builds need the numpy, cython or setuptools just installed
        subprocess.run([*pip, "--no-build-isolation", *compiled], check=True)
    done.write_text(wanted)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("peers", nargs="*", default=list(EVERY), metavar="PEER")
    arguments = parser.parse_args()
    unknown = set(arguments.peers) - set(EVERY)
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    for python in dict.fromkeys(install(peer) for peer in arguments.peers):
        print(python)


if __name__ == "__main__":
    main()
