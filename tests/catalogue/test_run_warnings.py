"""What "flagged" means, and what is said of a run as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from autofit_ml.catalogue import Flag, bound_names, empty_rows, flagged, rows_to_table, run_warnings
from autofit_ml.cli.progress import PlainProgress
from autofit_ml.report import write_report
from autofit_ml.runs.summary import RunSummary


def table_of(*flags, messages=()):
    rows = empty_rows(len(flags))
    rows["id"][:] = [f"g{k}" for k in range(len(flags))]
    rows["flags"][:] = flags
    rows["status"][:] = ["failed" if flag & Flag.FAILED else "ok" for flag in flags]
    rows["use"][:] = True
    rows["message"][: len(messages)] = messages
    return rows_to_table(rows)


HOW_DATA_ARE = Flag.CORRELATED_NOISE | Flag.SIGMA_ESTIMATED | Flag.PSF_ESTIMATED


def test_flagged_means_a_bit_of_quality():
    for flag in Flag:
        assert bool(flagged(int(flag))) == (flag not in HOW_DATA_ARE and flag != Flag.FAILED)
    assert flagged(np.array([0, int(HOW_DATA_ARE), int(Flag.EDGE | HOW_DATA_ARE)])).tolist() == [
        False, False, True,
    ]  # fmt: skip
    assert not flagged(int(Flag.FAILED | Flag.EDGE))


def test_terminal_json_and_report_count_the_same(tmp_path):
    flags = [0, HOW_DATA_ARE, Flag.EDGE, Flag.AT_BOUND, Flag.FAILED, Flag.EDGE | Flag.BLENDED]
    table = table_of(*map(int, flags))
    summary = RunSummary(tmp_path)
    summary.count(table)
    assert (summary.n_objects, summary.n_ok, summary.n_flagged, summary.n_failed) == (6, 4, 3, 1)
    progress = PlainProgress(None)
    progress.count({name: table[name].to_pylist() for name in ("id", "status", "flags", "message")})
    assert (progress.usable, progress.flagged, progress.failed) == (4, 3, 1)
    assert "6 objects: 4 usable, 3 flagged, 1 failed" in progress.closing_lines(summary, "")[0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (table_of(*[0] * 9, int(Flag.AT_BOUND)), []),
        (table_of(0, 0, 0, int(Flag.AT_BOUND)), ["1 of 4 objects are not usable (AT_BOUND: 1)"]),
        (table_of(*[int(Flag.SIGMA_ESTIMATED)] * 3, 0), ["the noise of 3 of 4"]),
        (table_of(*[0] * 9, int(Flag.BAD_SIGMA)), ["1 of 10 objects have sky"]),
        (table_of(*[0] * 9, int(Flag.BAD_PSF)), ["1 of 10 objects have a PSF image"]),
        (table_of(0, messages=["PSF built from 3 stars, FWHM 3.1 px"]), ["from 3 stars only"]),
        (table_of(0, messages=["a; Moffat PSF fitted to 4 stars: FWHM 3 px"]), ["from 4 stars"]),
        (table_of(0, messages=["PSF built from 30 stars, FWHM 3.1 px"]), []),
        (table_of(), []),
    ],
)
def test_warnings_of_a_run(table, words, tmp_path):
    said = run_warnings(table)
    assert len(said) == len(words)
    for text, word in zip(said, words, strict=True):
        assert word in text


def test_warnings_are_at_the_end_and_on_top(tmp_path):
    from autofit_ml.catalogue.files import write_catalogue_files

    table = table_of(0, int(Flag.AT_BOUND))
    write_catalogue_files(table, tmp_path)
    page = write_report(tmp_path).read_text()
    (said,) = run_warnings(table)
    assert page.index(said) < page.index("Filters")
    summary = RunSummary(tmp_path)
    summary.count(table)
    assert f"warning:   {said}" in PlainProgress(None).closing_lines(summary, "")


def test_bounds_are_named_as_columns():
    fitted = ["bulge.ln_rc", "bulge.eta1", "bulge.eta2", "disk.ln_n", "x", "ln_q", "pa", "ln_re"]
    assert bound_names(fitted) == ["re", "q", "n", "x", "pa"]
