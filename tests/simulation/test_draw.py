"""Light of every kind of component: flux, centroid, second moments, GalSim's own drawing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from autofit_ml.images.stamp import PSF
from autofit_ml.profiles.sersic import sersic_b, sersic_intensity_at_re
from autofit_ml.simulation.draw import EXACT, FAST, draw_box, extent, render_source
from autofit_ml.simulation.psf import moffat_psf
from autofit_ml.simulation.sources import Component, Source, composite, half_light_radius

galsim = pytest.importorskip("galsim")

DISC_SCALE = 1.6783469900166605


def moments(image):
    """Flux, centroid (x, y) and second moments (xx, yy, xy)."""
    y, x = np.indices(image.shape)
    flux = image.sum()
    cx, cy = (image * x).sum() / flux, (image * y).sum() / flux
    dx, dy = x - cx, y - cy
    second = [(image * product).sum() / flux for product in (dx * dx, dy * dy, dx * dy)]
    return flux, cx, cy, *second


def sersic_second_moment(n, re):
    """<r^2> of a circular Sérsic profile: re^2 Gamma(4n) / (Gamma(2n) b^(2n))."""
    return re**2 * special.gamma(4 * n) / special.gamma(2 * n) / sersic_b(n) ** (2 * n)


@pytest.mark.parametrize("accuracy", [FAST, EXACT])
@pytest.mark.parametrize(("n", "q", "pa"), [(0.5, 0.4, 20), (1.0, 0.7, 110), (1.5, 1.0, 0)])
def test_moments_of_a_galaxy_add_to_those_of_the_psf(n, q, pa, accuracy):
    """Exact for a convolution; 0.5 %: light outside the image (n = 1.5, 16 re away)."""
    psf = moffat_psf(3.0, beta=4.0, size=41)
    source = Source(80.3, 79.6, 100.0, 5.0, n, q, pa)
    flux, x, y, xx, yy, xy = moments(render_source(source, psf, (161, 161), accuracy))
    _, _, _, pxx, pyy, pxy = moments(np.asarray(psf.data, dtype=float))
    assert flux == pytest.approx(100.0, rel=1e-4)
    assert (x, y) == (pytest.approx(80.3, abs=2e-3), pytest.approx(79.6, abs=2e-3))
    along = sersic_second_moment(n, 5.0) / 2
    theta = np.deg2rad(pa)
    axis, normal = (
        np.array([-np.sin(theta), np.cos(theta)]),
        np.array([np.cos(theta), np.sin(theta)]),
    )
    expected = along * (np.outer(axis, axis) + q**2 * np.outer(normal, normal))
    tolerance = 0.005 * along
    assert xx - pxx == pytest.approx(expected[0, 0], abs=tolerance)
    assert yy - pyy == pytest.approx(expected[1, 1], abs=tolerance)
    assert xy - pxy == pytest.approx(expected[0, 1], abs=tolerance)


COMPONENTS = {
    "disc": Component("disc", 10.0, 5.0, 1.0, 0.35, 60.0, thickness=0.15),
    "spiral": Component("spiral", 10.0, 5.0, 1.0, 0.7, 60.0, amplitude=0.8, pitch=15.0),
    "knots": Component(
        "knots",
        10.0,
        5.0,
        float("nan"),
        offsets=np.array([[3.0, 1.0, 0.5], [-4.0, 2.0, 0.3], [1.0, -6.0, 0.2]]),
        knot_sigma=0.6,
    ),
    "ring": Component("ring", 10.0, 8.0, float("nan"), 0.6, 60.0, knot_sigma=1.0),
}


@pytest.mark.parametrize("kind", COMPONENTS)
def test_flux_and_centroid_of_components(kind):
    """Light within 14 re of an exponential: all but 1e-8; knots and arms by construction."""
    part = COMPONENTS[kind]
    psf = moffat_psf(3.0, beta=4.0, size=41)
    source = composite(70.2, 69.7, (part,), "test")
    flux, x, y, *_ = moments(render_source(source, psf, (141, 141)))
    assert flux == pytest.approx(10.0, rel=2e-4)
    shift = (0.0, 0.0)
    if part.offsets is not None:
        shift = part.offsets[:, :2].T @ part.offsets[:, 2]
    assert x - 70.2 == pytest.approx(shift[0], abs=3e-3)
    assert y - 69.7 == pytest.approx(shift[1], abs=3e-3)


def test_thin_unmodulated_spiral_is_an_exponential_disc():
    """Sampled twice a pixel: the cusp is good to 0.3 % of the peak at re = 5 px."""
    psf = moffat_psf(3.0, size=41)
    spiral = composite(40, 40, (Component("spiral", 10.0, 5.0, 1.0, 0.6, 30.0),), "test")
    image = render_source(spiral, psf, (81, 81))
    disc = render_source(Source(40, 40, 10.0, 5.0, 1.0, 0.6, 30.0), psf, (81, 81))
    assert abs(image - disc).max() < 3e-3 * disc.max()


def test_ring_is_a_circle_in_the_plane_of_the_disc():
    """Against 720 Gaussians along an ellipse (only radially as wide where it is round)."""
    psf, angle = moffat_psf(3.0, size=41), np.deg2rad(np.arange(0, 360, 0.5))
    ring = Component("ring", 10.0, 8.0, float("nan"), 1.0, 0.0, knot_sigma=1.0)
    offsets = np.column_stack([8 * np.cos(angle), 8 * np.sin(angle), np.full(720, 1 / 720)])
    knots = Component("knots", 10.0, 8.0, float("nan"), offsets=offsets, knot_sigma=1.0)
    image, dense = (
        render_source(composite(40, 40, (part,), "test"), psf, (81, 81)) for part in (ring, knots)
    )
    assert abs(image - dense).max() < 1e-6 * dense.max()
    assert image[40, 40] < 0.2 * image.max()
    _, _, _, xx, yy, _ = moments(
        render_source(
            composite(40, 40, (Component("ring", 1.0, 8.0, q=0.5, knot_sigma=1.0),), "test"),
            psf,
            (81, 81),
        )
    )
    _, _, _, pxx, *_ = moments(np.asarray(psf.data, dtype=float))
    # pa = 0: along y; both second moments are half the squared radius and the squared width.
    assert yy - pxx == pytest.approx(33.0, rel=0.01)
    assert xx - pxx == pytest.approx(33.0 / 4, rel=0.03)


def test_arms_wind_as_stated():
    """On the crest 2 phi = 2 ln(r / h) / tan(pitch) - phase the disc is brighter than between."""
    part = Component("spiral", 1.0, 20.0, 1.0, 1.0, 0.0, amplitude=0.8, pitch=20.0, phase=50.0)
    psf = PSF(np.ones((1, 1), np.float32))
    image = render_source(composite(100, 100, (part,), "test"), psf, (201, 201))
    scale = part.re / DISC_SCALE
    radius = np.linspace(1.5, 4.0, 40) * scale
    crest = np.log(radius / scale) / np.tan(np.deg2rad(part.pitch)) - np.deg2rad(part.phase) / 2

    def at(angle):
        # In the disc's plane at pa = 0: along is +y, across +x.
        x = np.rint(100 + radius * np.sin(angle)).astype(int)
        y = np.rint(100 + radius * np.cos(angle)).astype(int)
        return image[y, x] / np.exp(-radius / scale)

    assert at(crest).mean() > 4 * at(crest + np.pi / 2).mean()


def test_disc_is_galsims_inclined_exponential():
    part = COMPONENTS["disc"]
    psf = moffat_psf(3.0, size=41)
    image = render_source(composite(40.0, 40.0, (part,), "test"), psf, (81, 81))
    inclination = np.arcsin(np.sqrt((1 - part.q**2) / (1 - part.thickness**2)))
    profile = galsim.InclinedExponential(
        inclination=inclination * galsim.radians,
        scale_radius=part.re / DISC_SCALE,
        scale_h_over_r=part.thickness,
        flux=part.flux,
    ).rotate((part.pa + 90) * galsim.degrees)
    interpolated = galsim.InterpolatedImage(
        galsim.Image(np.array(psf.data, dtype=float), scale=1), x_interpolant="lanczos15", flux=1.0
    )
    theirs = (
        galsim.Convolve(profile, interpolated)
        .drawImage(nx=81, ny=81, scale=1, method="no_pixel")
        .array
    )
    # Lanczos-15 against sinc interpolation of the PSF: 1e-4 of the peak.
    assert abs(image - theirs).max() < 2e-4 * theirs.max()


@pytest.mark.parametrize("oversampling", [2, 3])
@pytest.mark.parametrize("has_pixel", [True, False])
def test_oversampled_psf(oversampling, has_pixel):
    """Against the same drawn on the fine grid and sampled: 1e-6 of the peak."""
    psf = moffat_psf(2.5, size=121, oversampling=oversampling, has_pixel=has_pixel)
    source = Source(30.3, 29.8, 5.0, 4.0, 1.5, 0.6, 35.0)
    image = render_source(source, psf, (61, 61))
    s = oversampling
    fine_psf = PSF(psf.data)
    if not has_pixel:
        pixel = galsim.Convolve(galsim.Moffat(beta=3.0, fwhm=2.5), galsim.Pixel(1.0)).drawImage(
            nx=161, ny=161, scale=1 / s, method="no_pixel", dtype=float
        )
        fine_psf = PSF((pixel.array / pixel.array.sum()).astype(np.float32))
    fine = Source(30.3 * s, 29.8 * s, 5.0, 4.0 * s, 1.5, 0.6, 35.0)
    expected = render_source(fine, fine_psf, (61 * s, 61 * s))[::s, ::s] * s**2
    # Without pixel the fine image was drawn on a larger array: its wings differ.
    assert abs(image - expected).max() < (1e-6 if has_pixel else 1e-3) * image.max()


def test_box_is_a_part_of_the_whole():
    """1e-5 of the peak: the fields of the two transforms differ."""
    psf = moffat_psf(3.0, size=31)
    source = Source(22.4, 55.1, 3.0, 3.0, 2.0, 0.6, 70.0)
    whole = render_source(source, psf, (80, 90))
    box = draw_box(source, psf, (40, 5), (30, 50))
    assert abs(box - whole[40:70, 5:55]).max() < 1e-5 * whole.max()


def test_beyond_its_extent_a_source_is_faint():
    psf = moffat_psf(3.0, size=41)
    for source in (
        Source(100, 100, 300.0, 4.0, 1.0, 0.5, 0.0),
        Source(100, 100, 300.0, 2.0, 4.0, 0.8, 40.0),
        Source(100, 100, 300.0, 0.0, float("nan")),
        composite(100, 100, (COMPONENTS["knots"],), "test").with_flux(300.0),
        composite(100, 100, (COMPONENTS["ring"],), "test").with_flux(300.0),
        composite(100, 100, (Component("point", 300.0, 0.0),), "test"),
    ):
        level = 0.01
        image = render_source(source, psf, (201, 201))
        y, x = np.indices(image.shape) - 100
        outside = np.hypot(x, y) > extent(source, psf, level)
        assert abs(image[outside]).max() <= 1.05 * level


def test_half_light_radius_of_one_and_two_components():
    """1 %: 2048 points stand for the light."""
    disc = Component("sersic", 3.0, 7.0, 1.0, 0.5, 20.0)
    assert half_light_radius((disc,), 0.5, 20.0) == pytest.approx(7.0, rel=0.01)
    bulge = Component("sersic", 1.0, 1.5, 3.0, 1.0, 0.0)
    both = composite(60, 60, (disc, bulge), "bulge_disc")
    # An image without blur: half of its light lies inside that ellipse.
    image = render_source(both, moffat_psf(1.5, beta=4.5, size=21), (241, 241))
    inside = image[both.elliptical_radius(image.shape) <= both.re].sum()
    assert inside == pytest.approx(2.0, rel=0.03)
    assert both.flux == 4.0
    assert np.isnan(both.n)


def test_flux_scales_all_components():
    source = composite(20, 20, tuple(COMPONENTS.values()), "test")
    brighter = source.with_flux(3 * source.flux)
    psf = moffat_psf(3.0, size=21)
    one, three = (render_source(item, psf, (41, 41)) for item in (source, brighter))
    np.testing.assert_allclose(three, 3 * one, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [0.6, 1.0, 1.5, 2.2])
def test_large_galaxies_of_low_index(n):
    """re = 30 px, against the brightness itself where the blur is small: 1e-3 of the peak.

    (GalSim's default table would be off by 2e-3 at the centre.)
    """
    psf = moffat_psf(1.0, beta=4.5, size=41)
    source = Source(150.0, 150.0, 1.0, 30.0, n, 1.0, 0.0)
    image = render_source(source, psf, (301, 301))
    y, x = np.indices(image.shape) - 150.0
    radius = np.hypot(x, y) / 30.0
    expected = sersic_intensity_at_re(1.0, 30.0, n) * np.exp(-sersic_b(n) * (radius ** (1 / n) - 1))
    smooth = (radius > 0.4) & (radius < 3)
    assert abs(image - expected)[smooth].max() < 1e-3 * image.max()
