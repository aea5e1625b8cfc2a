"""ArviZ data: contents, units, files; for ArviZ before and after 1.0."""

import warnings

import numpy as np
import pytest
import torch

from autofit_ml.errors import SettingsError
from autofit_ml.posterior import PosteriorSamples, to_inference_data, write_inference_data

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # announces its next version
    arviz = pytest.importorskip("arviz")

NAMES = ("x", "ln_flux")


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    out = PosteriorSamples.empty("hmc", 3, 4, 25, 2, torch.zeros(()))
    out.draws[:] = torch.randn(3, 4, 25, 2, generator=generator)
    out.log_density[:] = -out.draws.square().sum(3)
    out.accept[:], out.ok[:], out.n_gradients[:] = 0.9, True, 500
    out.rhat[:, 0] = 1.002  # the other parameter is fixed
    return out


@pytest.mark.parametrize("version", [arviz.__version__, "0.23.4", "1.2.0"])
def test_contents_and_file(samples, version, tmp_path, monkeypatch):
    monkeypatch.setattr(arviz, "__version__", version)
    data = to_inference_data(samples, 1, NAMES, {"id": "galaxy 7", "model": "sersic"})
    path = write_inference_data(data, tmp_path / "posterior", "galaxy-7")
    assert path == tmp_path / "posterior" / "galaxy-7.nc"
    assert [p.name for p in path.parent.iterdir()] == ["galaxy-7.nc"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = xarray.open_datatree(path, engine="h5netcdf")
    with tree:
        posterior = tree["posterior"]
        assert posterior["x"].dims == ("chain", "draw")
        for i, name in enumerate(NAMES):
            np.testing.assert_array_equal(posterior[name], samples.draws[1, :, :, i])
        np.testing.assert_array_equal(tree["sample_stats"]["lp"], samples.log_density[1])
        attrs = posterior.attrs
        assert attrs["id"] == "galaxy 7"
        assert attrs["sampling_method"] == "hmc"
        assert attrs["rhat_max"] == pytest.approx(1.002)
        assert "step_size" not in attrs  # not known


def test_arviz_reads_it(samples, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_inference_data(to_inference_data(samples, 0, NAMES), tmp_path, "a")
        back = arviz.from_netcdf(path)
        summary = arviz.summary(back)
    assert list(summary.index) == list(NAMES)
    assert "mean" in summary.columns


def test_other_values(samples):
    values = np.arange(4 * 25 * 3.0).reshape(4, 25, 3)
    data = to_inference_data(samples, 0, ("flux", "re", "n"), values=values)
    np.testing.assert_array_equal(data["posterior"]["n"], values[:, :, 2])


def test_no_density(samples):
    samples.log_density[:] = torch.nan
    data = to_inference_data(samples, 0, NAMES)
    groups = data.groups() if callable(data.groups) else data.groups
    assert not any("sample_stats" in group for group in groups)


def test_wrong_use(samples, monkeypatch):
    for names in (("x",), ("x", "x"), ("x", "y", "z")):
        with pytest.raises(SettingsError, match="different names"):
            to_inference_data(samples, 0, names)

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(SettingsError, match='pip install "arviz'):
        to_inference_data(samples, 0, NAMES)
