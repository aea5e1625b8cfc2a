"""Known answers and conventions of the simulated images."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

from autofit_ml.catalogue.flags import Flag
from autofit_ml.errors import SettingsError
from autofit_ml.images.stamp import PSF
from autofit_ml.simulation import (
    Source,
    add_noise,
    demo_set,
    export_fits,
    flux_for_snr,
    moffat_psf,
    noise_map,
    observe_scene,
    render_source,
    sersic_indices,
    simulate_sersic,
    to_stamps,
    total_snr,
    truth_table,
)

galsim = pytest.importorskip("galsim")


def direct_transform(source: Source, psf: PSF, size: int, grid: int) -> np.ndarray:
    """Inverse DFT on a very large grid of GalSim's Hankel transform x the PSF image's DFT."""
    accuracy = galsim.GSParams(kvalue_accuracy=1e-7, folding_threshold=5e-4)
    galaxy = galsim.Sersic(
        n=source.n, half_light_radius=source.re * np.sqrt(source.q), gsparams=accuracy
    ).shear(q=source.q, beta=(source.pa + 90) * galsim.degrees)
    kimage = galaxy.drawKImage(nx=grid + 2, ny=grid + 2, scale=2 * np.pi / grid)
    x0, y0 = -kimage.bounds.xmin, -kimage.bounds.ymin
    rows = np.fft.fftfreq(grid, 1 / grid).astype(int)
    transform = kimage.array.real[y0 + rows][:, x0 : x0 + grid // 2 + 1]
    height, width = psf.data.shape
    padded = np.zeros((grid, grid))
    padded[:height, :width] = psf.data
    kx = 2 * np.pi * np.fft.rfftfreq(grid)
    ky = 2 * np.pi * np.fft.fftfreq(grid)[:, None]
    phase = np.exp(-1j * (kx * (source.x - (width - 1) / 2) + ky * (source.y - (height - 1) / 2)))
    product = transform * np.fft.rfft2(padded) * phase
    return source.flux * np.fft.irfft2(product, s=(grid, grid))[:size, :size]


@pytest.mark.parametrize(
    ("n", "re", "q", "pa", "size", "psf_size"),
    [
        (0.6, 2.0, 0.1, 10.0, 64, 25),
        (1.0, 4.0, 0.5, 30.0, 64, 25),
        (1.0, 1.0, 0.9, 75.0, 33, 24),
        (2.5, 8.0, 0.9, 0.0, 64, 25),
        (4.0, 6.0, 0.7, 100.0, 64, 25),
    ],
)
def test_psf_image_is_convolved_exactly(n, re, q, pa, size, psf_size):
    """1e-5 of the peak: five times below what a fit must resolve (5e-5)."""
    psf = moffat_psf(3.0, ellipticity=(0.03, 0.01), size=psf_size)
    source = Source(size / 2 - 0.3, size / 2 + 0.2, 3.0, re, n, q, pa)
    ours = render_source(source, psf, (size, size))
    reference = direct_transform(source, psf, size, grid=2048)
    assert abs(ours - reference).max() < 1e-5 * reference.max()
    assert ours.sum() == pytest.approx(reference.sum(), rel=1e-5)


@pytest.mark.parametrize(("pa", "angle_from_x"), [(0, 90), (90, 0), (45, 135), (135, 45)])
def test_position_angle_counter_clockwise_from_up(pa, angle_from_x):
    """pa 0 vertical, 90 horizontal, 45 from lower right to upper left."""
    source = Source(20, 20, 1.0, re=6, n=1, q=0.2, pa=pa)
    image = render_source(source, moffat_psf(2.5), (41, 41))
    dy, dx = np.mgrid[:41, :41] - 20
    xx, yy, xy = ((image * moment).sum() for moment in (dx * dx, dy * dy, dx * dy))
    measured = np.rad2deg(0.5 * np.arctan2(2 * xy, xx - yy)) % 180
    # 0.5 degrees: moments cut by the square stamp
    assert abs((measured - angle_from_x + 90) % 180 - 90) < 0.5
    if pa == 45:
        assert image[26, 14] > 10 * image[26, 26]
    if pa == 0:
        assert image[28, 20] > 10 * image[20, 28]


def test_elliptical_radius_matches_image():
    """Half of the light of an unsmeared galaxy lies inside radius re (pixel edges: 2 %)."""
    delta = PSF(np.ones((1, 1), np.float32))
    source = Source(64.2, 63.6, 1.0, re=15, n=1, q=0.5, pa=33)
    image = render_source(source, delta, (128, 128))
    inside = source.elliptical_radius((128, 128)) < 15
    assert image[inside].sum() == pytest.approx(0.5, rel=0.02)


def test_star_is_the_psf():
    psf = moffat_psf(3.0, size=25)
    image = render_source(Source(20, 18, 5.0, re=0, n=np.nan), psf, (37, 41))
    np.testing.assert_allclose(image[6:31, 8:33], 5 * psf.data, atol=1e-6)
    # half a pixel away and back in the Fourier sense: the flux stays (side lobes cut: 0.2 %)
    shifted = render_source(Source(20.5, 18.3, 5.0, re=0, n=np.nan), psf, (37, 41))
    assert shifted.sum() == pytest.approx(5, rel=2e-3)


def test_pixel_is_added_to_an_optical_psf():
    """An 3x oversampled PSF without pixel gives what the pixel-integrated one gives (0.2 %)."""
    optical = moffat_psf(4.0, size=99, oversampling=3, has_pixel=False)
    pixelised = moffat_psf(4.0, size=33)
    source = Source(32.2, 31.7, 1.0, re=4, n=1, q=0.6, pa=20)
    one, two = (render_source(source, psf, (64, 64)) for psf in (optical, pixelised))
    assert abs(one - two).max() < 2e-3 * two.max()


def test_total_snr_and_flux():
    unit = render_source(Source(16, 16, 1.0, re=3, n=1), moffat_psf(3.0), (33, 33))
    for gain in (0.5, 10.0, np.inf):
        flux = flux_for_snr(unit, 80.0, sky_rms=2.0, gain=gain)
        model = flux * unit
        assert total_snr(model, noise_map(model, 2.0, gain)) == pytest.approx(80, rel=1e-4)
    # matched-filter meaning: the flux estimate's scatter is flux / snr (2 % from 4000 draws)
    sigma, rng = noise_map(model, 2.0, np.inf), np.random.default_rng(1)
    weight = model / sigma**2
    estimates = [
        (weight * add_noise(model, sigma, rng)).sum() / (weight * model).sum() for _ in range(4000)
    ]
    assert np.std(estimates) == pytest.approx(1 / 80, rel=0.05)


def test_noise_has_the_stated_variance_and_correlation():
    rng = np.random.default_rng(3)
    for rho in (None, 0.2, 0.5):
        noise = add_noise(np.zeros((400, 400)), np.full((400, 400), 3.0), rng, rho)
        assert noise.std() == pytest.approx(3, rel=0.02)
        lag1 = (noise[:, 1:] * noise[:, :-1]).mean() / 9
        lag11 = (noise[1:, 1:] * noise[:-1, :-1]).mean() / 9
        # 160 000 pixels: 1 sigma 0.0025 to 0.006
        assert lag1 == pytest.approx(rho or 0, abs=0.02)
        assert lag11 == pytest.approx((rho or 0) ** 2, abs=0.02)


def test_sample_is_reproducible_and_in_range():
    kwargs = {
        "seed": 11,
        "size": (40, 51),
        "n": (1, 3),
        "re": (2, 5),
        "q": (0.3, 0.9),
        "snr": (20, 200),
    }
    one = simulate_sersic(4, neighbours=1.0, sky=(1, 2), **kwargs)
    two = simulate_sersic(6, neighbours=1.0, sky=(1, 2), **kwargs)
    for a, b in zip(one, two[:4], strict=True):
        if len(one) <= 50:
            assert a.target.n == b.target.n
        assert a.data.shape == (40, 51)
        assert 1 <= a.target.n <= 3
        assert 2 <= a.target.re <= 5
        assert 0.3 <= a.target.q <= 0.9
        assert 1 <= a.sky <= 2
        assert abs(a.target.x - 25) <= 0.5
        assert abs(a.target.y - 19.5) <= 0.5
        np.testing.assert_array_equal(a.data, b.data)
    table = truth_table(one)
    assert isinstance(table, QTable)
    assert str(table["re"].unit) == "pix"
    np.testing.assert_allclose(
        table["mag"].value, 27 - 2.5 * np.log10([item.target.flux for item in one])
    )


def test_given_psf_is_used_and_noise_free():
    psf = moffat_psf(3.5)
    (item,) = simulate_sersic(1, seed=0, psf=psf, noise=False, sky=4.0)
    assert item.psf is psf
    np.testing.assert_allclose(item.data, item.model + 4.0, rtol=1e-6)
    (stamp,) = to_stamps([item])
    assert stamp.psf is psf
    assert stamp.data.dtype == stamp.sigma.dtype == np.float32
    assert stamp.pixel_scale == 0.2


def test_indices_grid():
    assert len(sersic_indices(0.3, 6.2)) <= 100
    np.testing.assert_array_equal(sersic_indices(4, 4), [4])
    with pytest.raises(SettingsError):
        sersic_indices(0.1, 4)


@pytest.mark.parametrize(
    "bad", [{"q": (0.5, 1.5)}, {"re": (0, 3)}, {"snr": (10, 5)}, {"n": (0.5, 8)}]
)
def test_bad_ranges(bad):
    with pytest.raises(SettingsError):
        simulate_sersic(1, seed=0, **bad)


def test_flags_hold_by_construction():
    psf, rng = moffat_psf(3.0), np.random.default_rng(0)
    target = Source(20, 20, 2000.0, re=4, n=1, q=0.8, pa=0)
    near = Source(23, 20, 1000.0, re=2, n=1)
    blended = observe_scene("b", target, [near], psf, (41, 41), rng=rng, saturation=40)
    assert blended.flags & Flag.BLENDED
    assert blended.flags & Flag.SATURATED
    assert blended.mask.any()
    assert blended.data.max() <= 40 + 1e-3
    assert set(np.unique(blended.labels)) == {0, 1, 2}
    alone = observe_scene("a", target, [], psf, (41, 41), rng=rng)
    assert not alone.flags & (Flag.BLENDED | Flag.SATURATED | Flag.LOW_SNR)
    cut = observe_scene("c", target.replace(y=1.0), [], psf, (41, 41), rng=rng)
    assert cut.flags & Flag.EDGE
    star = observe_scene("s", Source(20, 20, 500.0, 0.0, np.nan), [], psf, (41, 41), rng=rng)
    assert star.flags & Flag.POINT_SOURCE


def test_export_layout(tmp_path):
    objects = simulate_sersic(2, seed=5, size=32)
    export_fits(objects, tmp_path, labels=True)
    name = objects[0].id
    assert sorted(path.name for path in tmp_path.glob(f"{name}_*")) == [
        f"{name}_{plane}.fits" for plane in ("image", "psf", "seg", "sigma")
    ]
    with fits.open(tmp_path / f"{name}_image.fits") as hdus:
        header = hdus[0].header
        np.testing.assert_array_equal(hdus[0].data, objects[0].data)
    for card in ("ZP", "GAIN", "PIXSCALE", "FILTER", "OBJECT", "CRVAL1"):
        assert card in header
    assert fits.getheader(tmp_path / f"{name}_psf.fits")["PSFPIX"] is True
    truth = QTable.read(tmp_path / "truth.ecsv")
    assert truth["re"][0].value == pytest.approx(objects[0].target.re)


def test_demo_set(tmp_path):
    objects = demo_set(tmp_path, n=12)
    assert len(objects) == 12 == len({item.id for item in objects})
    flags = np.bitwise_or.reduce([item.flags for item in objects])
    for flag in (Flag.BLENDED, Flag.EDGE, Flag.POINT_SOURCE):
        assert flags & flag
    assert len(list(tmp_path.glob("*_image.fits"))) == 12
    assert len(demo_set(tmp_path / "one", n=1)) == 1
