"""A flat sky."""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register

_ANY = (-float("inf"), float("inf"))

register(
    Profile(
        name="flat_sky",
        aliases=("sky",),
        kind="background",
        description="flat sky",
        shapes=(ShapeParameter("sky", 0.0, _ANY, False, "image units", "sky per pixel"),),
    )
)
