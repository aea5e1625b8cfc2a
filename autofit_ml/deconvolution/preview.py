"""The picture of a deconvolved object: data, mean, scatter, three samples, residual."""

import io

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from autofit_ml.deconvolution.summary import Sharp
from autofit_ml.report.captions import TEXT, font_of
from autofit_ml.report.drawing import BACKGROUND

__all__ = ["sharp_preview_png"]

_PANEL = 192
_GAP = 6
_TITLE = 20
_WARNING = (255, 200, 92)


def sharp_preview_png(sharp: Sharp) -> bytes:
    """A PNG with seven panels; the first image row is at the bottom.

    Data, mean and samples share one stretch (asinh, fluxes per data pixel); the scatter has its
    own; the residual is in units of the noise, from -5 to 5.
    """
    s2 = sharp.oversampling**2
    data = np.where(sharp.mask, np.nan, sharp.data)
    top = float(np.nanmax(sharp.mean)) * s2
    noise = max(float(np.median(sharp.sigma[~sharp.mask])), 1e-30)
    panels = [
        ("data", _stretched(data, noise, top)),
        ("mean" if sharp.is_posterior else sharp.sampler, _stretched(sharp.mean * s2, noise, top)),
    ]
    if sharp.is_posterior:
        spread = sharp.std / max(float(sharp.std.max()), 1e-30)
        panels.append(("std", _coloured(spread, "viridis")))
    for k in range(min(3, len(sharp.samples)) if sharp.is_posterior else 0):
        panels.append((f"sample {k + 1}", _stretched(sharp.samples[k] * s2, noise, top)))
    panels.append(("residual", _coloured(0.5 + 0.1 * sharp.residual / sharp.sigma, "RdBu_r")))
    width = len(panels) * (_PANEL + _GAP) + _GAP
    lines = [
        f"{sharp.id}   target FWHM {sharp.target_fwhm:g} px, {sharp.oversampling}x, "
        + (
            f"{len(sharp.samples)} samples ({sharp.sampler})"
            if sharp.is_posterior
            else "no posterior"
        ),
        *sharp.warnings,
    ]
    height = _PANEL + 2 * _GAP + _TITLE * (1 + len(lines))
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for k, text in enumerate(lines):
        draw.text((_GAP, 3 + k * _TITLE), text, _WARNING if k else TEXT, font=font_of(13))
    upper = _TITLE * len(lines)
    for k, (title, colours) in enumerate(panels):
        x = _GAP + k * (_PANEL + _GAP)
        draw.text((x, upper + 2), title, TEXT, font=font_of(12))
        picture = Image.fromarray(colours[::-1]).resize((_PANEL, _PANEL), Image.Resampling.NEAREST)
        canvas.paste(picture, (x, upper + _TITLE))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _stretched(image: np.ndarray, noise: float, top: float) -> np.ndarray:
    limit = np.arcsinh(max(top, 3 * noise) / noise)
    return _coloured(0.08 + 0.92 * np.arcsinh(image / noise) / limit, "magma")


def _coloured(values: np.ndarray, name: str) -> np.ndarray:
    """uint8 (y, x, 3); grey where there is no value."""
    levels = np.clip(np.nan_to_num(values), 0, 1)
    colours = (matplotlib.colormaps[name](levels)[..., :3] * 255 + 0.5).astype(np.uint8)
    colours[~np.isfinite(values)] = (90, 94, 100)
    return colours
