"""Point source: the PSF itself."""

from autofit_ml.profiles.registry import Profile, register

register(
    Profile(
        name="point",
        aliases=("psf", "star", "point_source"),
        kind="point",
        description="point source",
    )
)
