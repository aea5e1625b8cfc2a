import astropy.units as u
import numpy as np
import pytest

from autofit_ml.catalogue import (
    BandParameter,
    ComponentColumns,
    Flag,
    ModelColumns,
    ShapeColumn,
    columns_for,
    covariance_matrix,
    covariance_order,
    empty_rows,
    pack_covariance,
    rows_to_table,
)
from autofit_ml.errors import SettingsError

EVERY_RUN = (
    "id file status message flags use at_bound x x_err x_err_stat y y_err y_err_stat ra dec flux flux_err flux_err_stat flux_stamp "
    "flux_stamp_err mag mag_err re re_err re_err_stat re_arcsec re_arcsec_err re_circ re_circ_err n n_err n_err_stat q "
    "q_err q_err_stat pa pa_err pa_err_stat pa_sky pa_sky_err sky sky_err sky_err_stat x_init y_init flux_init re_init n_init q_init "
    "pa_init sky_init cov cov_stat n_neighbours blend_fraction chi2 ndof chi2_red snr n_pix n_starts n_iter logl bic bic_point_source "
    "model segmenter object_class init prior weights data_id filter survey zeropoint pixel_scale psf_fwhm noise_correlation "
    "time_ms"
)


def test_columns_of_every_run_are_those_of_the_design_in_order():
    assert [column.name for column in columns_for()] == EVERY_RUN.split()


BULGE = ComponentColumns("bulge", "moffat", (ShapeColumn("beta", "", "slope of the wings"),))
DISC = ComponentColumns(
    "disk", "exponential", (ShapeColumn("boxiness", "", "> 0 boxy, < 0 discy"),)
)
MODELS = {
    "one": ModelColumns(),
    "two": ModelColumns((ComponentColumns(), DISC)),
    "three": ModelColumns((BULGE, DISC, ComponentColumns("point", "point"))),
    "tilted": ModelColumns(tilted_sky=True),
    "bands": ModelColumns(
        (BULGE, DISC),
        ("g", "hsc-r", "F814W"),
        (BandParameter(0, "flux"), BandParameter(1, "flux"), BandParameter(1, "boxiness")),
        tilted_sky=True,
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_columns_are_unique_ascii_and_have_valid_units(kind):
    columns = columns_for(MODELS[kind])
    names = [column.name for column in columns]
    assert len({name.lower() for name in names}) == len(names)
    for column in columns:
        assert column.name.isidentifier(), column.name
        assert column.description.isascii() and column.description
        u.Unit(column.unit)
        if column.name.endswith(("_err", "_err_stat")):
            stem = column.name.removesuffix("_stat").removesuffix("_err")
            value = next(c for c in columns if c.name == stem)
            assert value.unit == column.unit
    # Every run has the usual columns, with the usual meaning of all but covariances.
    every = [c for c in columns_for() if c.name not in ("cov", "cov_stat")]
    assert [c for c in columns if c in every] == every


def test_second_component_adds_its_own_columns_and_keeps_the_first_36_covariances():
    columns = {column.name: column for column in columns_for(MODELS["two"])}
    assert {"re_2", "re_2_err", "re_2_err_stat", "re_2_init", "n_2", "pa_sky_2", "mag_2"} <= set(
        columns
    )
    assert {"boxiness_2", "boxiness_2_err", "boxiness_2_init"} <= set(columns)
    assert {"flux_total", "mag_total_err", "fraction", "fraction_err"} <= set(columns)
    assert {"re_total", "re_total_err", "q_total", "q_total_err"} <= set(columns)
    assert columns["re_total"].unit == "pix"
    assert not {"sky_2", "boxiness", "sky_dx", "n_neighbours_2"} & set(columns)
    assert "disk, exponential" in columns["re_2"].description
    order = covariance_order(MODELS["two"])
    assert order[:8] == covariance_order()
    assert order[8:] == (*(f"{name}_2" for name in order[:7]), "boxiness_2")
    assert columns["cov"].size == 16 * 17 // 2


def test_bands_add_what_differs_between_them():
    names = [column.name for column in columns_for(MODELS["bands"])]
    for band in ("g", "hsc_r", "F814W"):
        for name in ("flux", "mag", "flux_2", "mag_2", "boxiness_2", "flux_total", "mag_total",
                     "re_total", "q_total", "fraction", "sky", "sky_dx", "sky_dy"):  # fmt: skip
            assert f"{name}_{band}" in names and f"{name}_{band}_err" in names
        assert f"flux_2_{band}_err_stat" in names and f"sky_{band}_err_stat" in names
    assert not {"re_g", "beta_g", "n_F814W", "x_g"} & set(names)
    assert {"flux", "mag", "sky", "beta", "sky_dx"} <= set(names)  # of the reference band


@pytest.mark.parametrize("bands", [("g", "G"), ("init",), ("2",), ("g-r", "g_r"), ("err", "g")])
def test_bands_whose_columns_would_clash_are_refused(bands):
    with pytest.raises(SettingsError, match="two columns called") as caught:
        ModelColumns((BULGE, DISC), bands, (BandParameter(0, "flux"), BandParameter(1, "flux")))
    assert "another name" in caught.value.remedy


def test_no_components_is_an_error():
    with pytest.raises(ValueError, match="1 or more"):
        ModelColumns(())


def test_empty_rows_are_failed_rows():
    rows = empty_rows(3)
    assert list(rows) == EVERY_RUN.split()
    assert rows["status"].tolist() == ["failed"] * 3
    assert rows["flags"].tolist() == [Flag.FAILED] * 3
    assert not rows["use"].any()
    assert np.isnan(rows["re"]).all() and np.isnan(rows["cov"]).all()
    assert rows["cov"].shape == (3, 36)
    assert rows["n_pix"].tolist() == [0, 0, 0]
    assert rows["id"].tolist() == ["", "", ""]


def test_covariance_packing_order():
    matrix = np.array([[1.0, 2, 4], [2, 3, 5], [4, 5, 6]])
    assert pack_covariance(matrix).tolist() == [1, 2, 3, 4, 5, 6]
    batch = np.stack([matrix, 10 * matrix])
    np.testing.assert_array_equal(covariance_matrix(pack_covariance(batch)), batch)
    with pytest.raises(ValueError, match="lower triangle"):
        covariance_matrix(np.zeros(5))


def test_failed_row_holds_no_stale_number(make_rows):
    rows = make_rows(["a", "b"])
    rows["status"][1] = "failed"  # a fit that was thrown away after the numbers were filled in
    table = rows_to_table(rows)
    for column in columns_for():
        value = table.column(column.name).to_pylist()[1]
        if column.known_without_fit:
            assert np.isfinite(value), column.name
        elif column.dtype == "float64":
            assert np.isnan(value).all(), column.name
        elif column.name in ("ndof", "n_pix", "n_starts", "n_iter"):
            assert value == 0, column.name
    assert table.column("flags").to_pylist() == [0, Flag.FAILED]
    assert table.column("use").to_pylist() == [True, False]


def test_use_follows_from_flags(make_rows):
    rows = make_rows(["a", "b", "c"])
    rows["flags"][:] = [Flag.EDGE, Flag.AT_BOUND, Flag.FAILED]
    rows["use"][:] = [False, True, True]
    table = rows_to_table(rows)
    assert table.column("use").to_pylist() == [True, False, True]
    assert table.column("flags").to_pylist() == [Flag.EDGE, Flag.AT_BOUND, 0]


def test_fields_carry_units_and_the_table_its_metadata(make_rows):
    table = rows_to_table(make_rows(["a"]), metadata={"settings_hash": "abc"})
    assert table.schema.metadata == {b"settings_hash": b"abc"}
    field = table.schema.field("re_arcsec")
    assert field.metadata[b"unit"] == b"arcsec"
    assert b"semi-major" in field.metadata[b"description"]
    assert (
        b"(x, y, flux, re, n, q, pa[deg], sky)"
        in table.schema.field("cov").metadata[b"description"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop("re"), "missing: \\['re'\\]"),
        (lambda rows: rows.update(radius=rows["re"]), "unknown: \\['radius'\\]"),
        (lambda rows: rows.update(n=rows["n"][:1]), "column n has shape"),
        (lambda rows: rows["id"].__setitem__(0, ""), "an id is empty"),
        (lambda rows: rows["id"].__setitem__(0, "b"), "an id is repeated"),
        (lambda rows: rows["status"].__setitem__(0, "good"), "not \\['good'\\]"),
    ],
)
def test_rows_that_break_the_schema_are_refused(make_rows, change, message):
    rows = make_rows(["a", "b"])
    change(rows)
    with pytest.raises(ValueError, match=message):
        rows_to_table(rows)


def test_rows_given_as_lists_and_undecodable_file_names(make_rows):
    rows = {name: list(values) for name, values in make_rows(["a", "b"]).items()}
    rows["file"] = ["na\udcffme.fits", "b.fits"]  # as os.fsdecode gives it
    table = rows_to_table(rows)
    assert table.column("file").to_pylist() == ["na\\udcffme.fits", "b.fits"]
