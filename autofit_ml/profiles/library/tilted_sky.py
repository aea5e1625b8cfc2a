"""A sky with a constant gradient."""

from autofit_ml.profiles.registry import Profile, ShapeParameter, register

_ANY = (-float("inf"), float("inf"))

register(
    Profile(
        name="tilted_sky",
        aliases=("gradient_sky",),
        kind="background",
        description="sky with a constant gradient",
        shapes=(
            ShapeParameter("sky", 0.0, _ANY, False, "image units", "sky at the stamp's centre"),
            ShapeParameter("sky_dx", 0.0, _ANY, False, "image units / pixel", "gradient along x"),
            ShapeParameter("sky_dy", 0.0, _ANY, False, "image units / pixel", "gradient along y"),
        ),
    )
)
