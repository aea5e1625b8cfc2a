"""Survey presets: what a survey's files are called, hold and mean, as data (``*.yaml``).

In: a preset's name. Out: `SurveyPreset`, used by `discover` (file names), `read_stamp` and
`read_frame` (HDUs, units, noise, mask bits, PSF). Formats that need code (SDSS noise and
psField) are functions in `autofit_ml.images.surveys.sdss`, named in the yaml file.
"""

from autofit_ml.images.surveys.preset import SurveyPreset, list_surveys, survey_preset

__all__ = ["SurveyPreset", "list_surveys", "survey_preset"]
