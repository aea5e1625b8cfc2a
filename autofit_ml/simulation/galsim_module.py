"""GalSim, an optional dependency."""

from __future__ import annotations

from autofit_ml.errors import SettingsError

__all__ = ["require_galsim"]


def require_galsim():
    """The galsim module, or an error that says how to get it."""
    try:
        import galsim
    except ImportError as error:
        raise SettingsError(
            "simulated images need GalSim, which is not installed",
            "pip install 'autofit-ml[simulate]'",
        ) from error
    return galsim
