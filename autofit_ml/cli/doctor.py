"""``autofit-ml doctor``."""

import dataclasses

from autofit_ml.cli.app import NOTHING, command
from autofit_ml.cli.calls import DoctorCommand
from autofit_ml.cli.terminal import print_json, say

_COLOURS = {"ok": "green", "note": "yellow", "bad": "bold red"}


@command(DoctorCommand)
def doctor(call: DoctorCommand) -> int:
    """Check the installation, or images in files and folders.

    Exit status: 0 everything is in order; 3 something cannot be used; 2 wrong usage; 1 nothing can
    be used.
    """
    from autofit_ml.runs.doctor import check_images, check_installation

    if call.paths or call.manifest is not None:
        found = check_images(call.paths or None, call.read, manifest=call.manifest)
    else:
        found = check_installation()
    if call.as_json:
        print_json([dataclasses.asdict(one) for one in found])
    else:
        width = min(max((len(one.what) for one in found), default=0), 40)
        for one in found:
            mark = (f"{one.state:4s}", _COLOURS[one.state])
            say(mark, f"  {one.what:{width}s}  {one.text}", error=False)
    bad = sum(one.state == "bad" for one in found)
    return 0 if not bad else NOTHING if bad == len(found) else 3
