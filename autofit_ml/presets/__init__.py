"""Presets: what is known of a survey, in one file each (``<survey>.yaml``).

In: a survey's name. Out: `SurveyPreset`: file names, units, zero points, mask bits and noise for
`autofit_ml.images`; and for each band that can be simulated, under ``simulation``, how it observes
(`autofit_ml.simulation.survey.Survey`; ``survey=hsc-i`` of ``autofit-ml simulate``). A new survey
is a new file here, and its line in docs/howto/survey.md.
"""

from autofit_ml.presets.preset import (
    FilePattern,
    SurveyPreset,
    list_surveys,
    simulated_surveys,
    survey_preset,
)

__all__ = ["FilePattern", "SurveyPreset", "list_surveys", "simulated_surveys", "survey_preset"]
