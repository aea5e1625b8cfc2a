"""Display of a fit: as text, as HTML in a notebook, as a figure."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import QTable

from autofit_ml.errors import InputError
from autofit_ml.report import ellipse_outline, format_measurement
from autofit_ml.results.profile import radial_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from autofit_ml.results.fit import Fit

__all__ = ["html_of", "plot_fit", "summary_table", "text_of"]

_SHOWN = ("mag", "flux", "re", "re_arcsec", "n", "q", "pa", "pa_sky", "x", "y")
_NOTE_LENGTH = 160
_CLIP = 5.0
_COLOURS = ("#40e0d0", "#ff963c", "#c882ff", "#ff6ea0")


def summary_table(fit: Fit) -> QTable:
    """Parameters of all components, one a row; see `Fit.summary`."""
    rows = []
    names = set(fit._row.colnames)
    shapes = [name for name in fit.covariance_names if name not in ("sky", *_SHOWN)]
    several = len(fit._suffixes) > 1
    parts = fit.model_name.split("+")
    totals = [name for name in names if name.endswith("_total") or name == "fraction"]
    wanted = [(name, "") for name in sorted(totals)] if several else []
    for k, end in enumerate(fit._suffixes):
        wanted += [(f"{name}{end}", parts[k] if several else "") for name in _SHOWN]
        wanted += [(name, parts[k]) for name in shapes if name.endswith(end) and k] if k else [
            (name, parts[k]) for name in shapes if not name.rpartition("_")[2].isdigit()
        ]  # fmt: skip
    for name, part in [*dict.fromkeys(wanted), ("sky", "")]:
        if name not in names or not np.isfinite(fit[name]):
            continue
        unit = getattr(fit._row[name], "unit", None)
        error = fit[f"{name}_err"] if f"{name}_err" in names else np.nan
        rows.append((name, part, fit[name], error, str(unit or "")))
    titles = ("name", "component", "value", "error", "unit")
    table = QTable(rows=rows or None, names=titles, dtype=("U16", "U16", "f8", "f8", "U12"))
    table["value"].info.format = ".6g"
    table["error"].info.format = ".2g"
    return table if several else table[[title for title in titles if title != "component"]]


def _verdict(fit: Fit) -> str:
    if not fit.ok:
        return "failed"
    if not fit.use:
        return "not to be used"
    return "usable, flagged" if fit.flagged else "usable"


def _lines(fit: Fit) -> list[tuple[str, str, str]]:
    """Name, value with its error, unit."""
    table = summary_table(fit)
    out = []
    for row in table:
        name = str(row["name"])
        out.append(
            (name, format_measurement(float(row["value"]), float(row["error"])), row["unit"])
        )
    return out


def text_of(fit: Fit) -> str:
    """A few lines."""
    head = f"{fit['id']}: {fit.model_name}, {_verdict(fit)}"
    lines = [head]
    if fit.ok:
        lines[0] += f", chi2_red {fit.chi2_red:.2f}, S/N {fit.snr:.0f}"
        lines += [f"  {name:10} {value} {unit}".rstrip() for name, value, unit in _lines(fit)]
    if fit.flag_names:
        lines.append(f"  flags: {', '.join(fit.flag_names)}")
    if fit["message"]:
        lines.append(f"  {_shortened(fit['message'])}")
    return "\n".join(lines)


def _shortened(text: str) -> str:
    return text if len(text) <= _NOTE_LENGTH else f"{text[: _NOTE_LENGTH - 3]}..."


def html_of(fit: Fit) -> str:
    """The parameters beside the figure, for a notebook."""
    rows = "".join(
        f"<tr><td style='text-align:left'>{name}</td><td style='text-align:left'>{value}</td>"
        f"<td style='text-align:left'>{html.escape(unit)}</td></tr>"
        for name, value, unit in _lines(fit)
    ) if fit.ok else ""  # fmt: skip
    notes = [f"chi2_red {fit.chi2_red:.2f}, S/N {fit.snr:.0f}"] if fit.ok else []
    notes += [", ".join(fit.flag_names)] if fit.flag_names else []
    notes += [html.escape(_shortened(fit["message"]))] if fit["message"] else []
    said = "<br>".join(notes)
    title = f"<b>{html.escape(fit['id'])}</b>: {html.escape(fit.model_name)}, {_verdict(fit)}"
    picture = _picture(fit)
    return (
        "<div style='display:flex;flex-wrap:wrap;align-items:flex-start;gap:1em'>"
        f"<div>{title}<table>{rows}</table><small>{said}</small></div>{picture}</div>"
    )


def _picture(fit: Fit) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.1), layout="constrained")
    try:
        plot_fit(fit, figure)
    except InputError:  # a run that kept no images
        return ""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=75)
    data = base64.b64encode(content.getvalue()).decode("ascii")
    return f"<img style='max-width:100%' src='data:image/png;base64,{data}'>"


# --- the figure -------------------------------------------------------------------------------


def plot_fit(fit: Fit, figure: Any = None) -> dict[str, Axes]:
    """Data, model, residual and profile; see `Fit.plot`."""
    from astropy.visualization import AsinhStretch, ImageNormalize

    data, labels = fit.data, fit.labels
    fitted = fit.ok
    if figure is None:
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(13, 3.5), layout="constrained")
    mosaic = [["data", "model", "residual", "profile"], ["data", "model", "residual", "difference"]]
    axes = figure.subplot_mosaic(mosaic, width_ratios=(1, 1, 1, 1.25), height_ratios=(2.4, 1))
    x0, y0 = fit.origin
    ny, nx = data.shape
    extent = (x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5)
    mask, noise = fit.mask, float(np.median(fit.sigma[~fit.mask])) if (~fit.mask).any() else 1.0
    used = data[~mask & (labels == fit.images.target)] if fit.images.target else data[~mask]
    sky = float(fit.sky) if fitted and np.isfinite(fit.sky) else float(np.median(data[~mask]))
    low = sky - 3 * noise
    high = max(float(np.max(used, initial=sky)), sky + 10 * noise)
    softening = float(np.clip(3 * noise / (high - low), 2e-3, 0.5))
    norm = ImageNormalize(vmin=low, vmax=high, stretch=AsinhStretch(softening), clip=True)
    common: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
    shown = axes["data"].imshow(data, norm=norm, cmap="magma", **common)
    axes["data"].set_title("data", fontsize=10)
    if fitted:
        axes["model"].imshow(fit.model(), norm=norm, cmap="magma", **common)
        pull = np.where(mask, np.nan, fit.residual() / fit.sigma)
        drawn = axes["residual"].imshow(pull, cmap="RdBu_r", vmin=-_CLIP, vmax=_CLIP, **common)
        axes["residual"].set_facecolor("0.75")
        _bar(figure, drawn, axes["residual"], "residual / $\\sigma$")
        for k, end in enumerate(fit._suffixes):
            if np.isfinite(fit[f"re{end}"]):
                shape = [fit[f"{name}{end}"] for name in ("x", "y", "re", "q", "pa")]
                for panel in ("data", "model"):
                    axes[panel].plot(
                        *ellipse_outline(*shape), color=_COLOURS[k % len(_COLOURS)], lw=0.9
                    )
    _bar(figure, shown, axes["data"], "image units")
    axes["model"].set_title(f"model: {fit.model_name}", fontsize=10)
    axes["residual"].set_title("residual", fontsize=10)
    for name in ("model", "residual"):
        axes[name].set_yticklabels([])
    for name in ("data", "model", "residual"):
        axes[name].tick_params(labelsize=8)
        axes[name].set_xlim(extent[:2])
        axes[name].set_ylim(extent[2:])
    axes["data"].set_xlabel("x [pixel]", fontsize=9)
    axes["data"].set_ylabel("y [pixel]", fontsize=9)
    if fitted:
        _profile(fit, axes["profile"], axes["difference"])
    else:
        for name in ("model", "residual", "profile", "difference"):
            axes[name].set_axis_off()
    return axes


def _bar(figure: Any, image: Any, axis: Any, label: str) -> None:
    bar = figure.colorbar(image, ax=axis, location="bottom", pad=0.02, aspect=35, shrink=0.95)
    ticks = image.norm.inverse(np.array([0.02, 0.25, 0.5, 0.75, 0.98]))
    if label == "image units":
        bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
        bar.minorticks_off()
    bar.ax.tick_params(labelsize=7)
    bar.set_label(label, fontsize=8, labelpad=1)


def _profile(fit: Fit, upper: Any, lower: Any) -> None:
    """Surface brightness against the semi-major axis, and data - model below it."""
    table = radial_profile(fit)
    arcsec = "radius_arcsec" in table.colnames
    radius = table["radius_arcsec" if arcsec else "radius"].value
    data, error, model = (np.asarray(table[name]) for name in ("data", "data_err", "model"))
    upper.errorbar(radius, data, error, fmt=".", ms=5, lw=1, color="0.25", label="data", zorder=3)
    upper.plot(radius, model, color="C3", lw=1.4, label="model")
    if "psf" in table.colnames and fit.psf is not None and fit.psf.source != "none":
        upper.plot(radius, table["psf"], color="C0", lw=1, ls=":", label="PSF")
    least = max(0.3 * float(np.median(error)), 1e-4 * float(data.max()))
    upper.set_yscale("log")
    upper.set_ylim(least, 2 * float(max(data.max(), model.max())))
    upper.set_xlim(0, radius[-1] * 1.02 if len(radius) else 1)
    upper.tick_params(labelsize=8, labelbottom=False)
    lower.sharex(upper)
    lower.errorbar(radius, (data - model) / error, 1, fmt=".", ms=4, lw=0.8, color="0.25")
    lower.axhline(0, color="C3", lw=1)
    lower.set_ylim(-6, 6)
    lower.tick_params(labelsize=8)
    unit = "arcsec" if arcsec else "pixel"
    lower.set_xlabel(f"semi-major axis [{unit}]", fontsize=9)
    lower.set_ylabel("diff. / $\\sigma$", fontsize=8)
    upper.set_ylabel("light per pixel", fontsize=9)
    half = fit["re_arcsec" if arcsec else "re"]
    if np.isfinite(half):
        upper.axvline(half, color="0.6", lw=0.8, ls="--")
        upper.text(
            half, 0.98, " $r_e$", transform=upper.get_xaxis_transform(), va="top", fontsize=8
        )
    upper.legend(fontsize=8, frameon=False)
