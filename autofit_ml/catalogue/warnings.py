"""Warnings about a run as a whole, from its catalogue."""

import re

import numpy as np
import pyarrow as pa

from autofit_ml.catalogue.flags import Flag

__all__ = ["run_warnings"]

_SHARE = 0.2
_FEW_STARS = 5
_STARS = re.compile(r"PSF (?:built|fitted)[^;]*?(\d+) stars")


def run_warnings(catalogue: pa.Table) -> list[str]:
    """Sentences for the end of a run and the top of its report; none where all is well.

    Parameters
    ----------
    catalogue : pyarrow.Table
    """
    objects = len(catalogue)
    if not objects:
        return []
    use = np.asarray(catalogue.column("use").to_pylist(), dtype=bool)
    flags = np.asarray(catalogue.column("flags").to_pylist(), dtype=np.int64)
    fitted = (flags & int(Flag.FAILED)) == 0
    out = []
    if np.mean(~use) > _SHARE:
        names = {flag: int(((flags & int(flag)) != 0)[~use].sum()) for flag in Flag}
        most = max(names, key=lambda flag: names[flag])
        out.append(
            f"{int((~use).sum())} of {objects} objects are not usable ({most.name}: {names[most]})"
        )

    def having(flag: Flag) -> int:
        return int(((flags & int(flag)) != 0)[fitted].sum())

    for flag, what in (
        (Flag.BAD_SIGMA, "have sky whose scatter is not what their noise plane says"),
        (Flag.BAD_PSF, "have a PSF image with a fault"),
    ):
        if having(flag):
            out.append(f"{having(flag)} of {objects} objects {what} ({flag.name}; see messages)")
    if having(Flag.SIGMA_ESTIMATED) > 0.5 * fitted.sum():
        out.append(
            f"the noise of {having(Flag.SIGMA_ESTIMATED)} of {objects} objects was built, not "
            "given: errors and chi2 are as good as gain and read noise"
        )
    texts = catalogue.column("message").unique().to_pylist()
    stars = [int(found[1]) for text in texts if (found := _STARS.search(text))]
    if stars and min(stars) < _FEW_STARS:
        out.append(f"a PSF was built from {min(stars)} stars only: give one, or check its width")
    return out
