import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import QTable, Table

from autofit_ml.catalogue import (
    BandParameter,
    ComponentColumns,
    Flag,
    ModelColumns,
    ShapeColumn,
    columns_for,
    covariance_matrix,
    merge_shards,
    query,
    read_catalogue,
    shard_ids,
    write_shard,
)
from autofit_ml.catalogue.fits_table import escape_text, unescape_text
from autofit_ml.errors import InputError, OutputError, SettingsError

HOSTILE = [
    "plain",
    "NGC 1052-Δ星é",
    "</script><script>alert(1)</script>",
    "back\\slash \\n \\x41 '\"&",
    "ends with blank ",
    "line\nbreak\ttab\x00nul",
    "long" * 100,
    "-", "NaN", "None",
]  # fmt: skip


@pytest.fixture
def results(tmp_path, make_rows):
    """A finished run of ten objects in three shards, one failed, one at a bound, one at the edge."""
    meta = {"autofit_ml": "0.1", "settings_hash": "é12"}
    shards = []
    for k, ids in enumerate((HOSTILE[:4], HOSTILE[4:6], HOSTILE[6:])):
        rows = make_rows(ids, failed=("plain",))
        rows["flags"][rows["id"] == "-"] = int(Flag.AT_BOUND | Flag.EDGE)
        rows["flags"][rows["id"] == "NaN"] = int(Flag.EDGE)
        shards.append(tmp_path / f"{k}.parquet")
        write_shard(shards[-1], rows, meta)
    merge_shards(shards, tmp_path / "results", order=HOSTILE[::-1])
    return tmp_path / "results"


def assert_same_tables(a, b):
    assert a.colnames == b.colnames
    assert a.meta == b.meta
    for name in a.colnames:
        assert a[name].unit == b[name].unit, name
        assert a[name].info.description == b[name].info.description, name
        assert a[name].shape == b[name].shape, name
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


@pytest.mark.parametrize("text", [*HOSTILE, "", " ", "na\udcffme"])
def test_fits_text_round_trip(text):
    escaped = escape_text(text)
    assert all(0x20 <= byte < 0x7F for byte in escaped)
    assert unescape_text(escaped.rstrip(b" ")) == text


def test_both_files_hold_the_same_rows_units_and_descriptions(results):
    from_parquet = read_catalogue(results / "catalog.parquet")
    assert_same_tables(from_parquet, read_catalogue(results / "catalog.fits"))
    assert_same_tables(from_parquet, read_catalogue(results))
    assert list(from_parquet["id"]) == HOSTILE[::-1]
    assert from_parquet["re"].unit == "pix"
    assert from_parquet["pixel_scale"].unit == "arcsec / pix"
    assert from_parquet["mag"].unit == "mag"
    assert from_parquet["cov"].shape == (10, 36)
    assert from_parquet.meta["settings_hash"] == "é12"
    order = [column.name for column in columns_for()]
    assert from_parquet.colnames == order
    for column in columns_for():
        assert from_parquet[column.name].info.description == column.description


def test_values_survive(results):
    table = read_catalogue(results)
    row = table[list(table["id"]).index(HOSTILE[1])]  # second row of its shard
    names = [column.name for column in columns_for()]
    assert row["re"].value == names.index("re") + 0.001
    assert row["ndof"] == names.index("ndof") + 1
    assert row["weights"] == "weights 1"
    matrix = covariance_matrix(row["cov"])
    assert matrix[3, 1] == matrix[1, 3] == (3 * 8 + 1) + (1 * 8 + 3)
    failed = table[list(table["id"]).index("plain")]
    assert failed["status"] == "failed" and failed["message"] == "the image is empty"
    assert np.isnan(failed["re"].value) and np.isnan(failed["cov"]).all()


def test_fits_is_standard_and_carries_units_and_descriptions(results):
    with fits.open(results / "catalog.fits", checksum=True) as hdus:
        hdus.verify("exception")
        hdu = hdus["CATALOG"]
        k = hdu.columns.names.index("re_arcsec") + 1
        assert hdu.header[f"TUNIT{k}"] == "arcsec"
        assert hdu.header[f"TCOMM{k}"] == "Half-light radius along the semi-major axis"
        assert hdu.header.comments[f"TTYPE{k}"].startswith("Half-light radius")
        assert hdu.header[f"TFORM{hdu.columns.names.index('cov') + 1}"] == "36D"
        width = max(len(escape_text(text)) for text in HOSTILE)
        assert hdu.header["TFORM1"] == f"{width}A"
        assert hdu.data["id"][-1] == "plain"
    generic = Table.read(results / "catalog.fits", hdu=1)  # no help from our reader
    assert str(generic["re"].unit) == "pix" and len(generic) == 10


def test_parquet_is_read_by_others(results):
    table = pq.read_table(results / "catalog.parquet")
    assert table.schema.field("re").metadata[b"unit"] == b"pix"
    assert len(table.to_pandas()) == 10 if _has_pandas() else table.num_rows == 10


def test_parquet_is_read_by_astropy_with_units_and_without_warnings(results):
    table = QTable.read(results / "catalog.parquet")  # no help from our reader
    ours = read_catalogue(results)
    assert table.colnames == ours.colnames and len(table) == 10
    assert str(table["re_arcsec"].unit) == "arcsec" and table["cov"].shape == (10, 36)
    assert table["re_arcsec"].info.description == ours["re_arcsec"].info.description
    assert sorted(table["id"]) == sorted(ours["id"])  # hostile texts are not cut off
    assert not any("table" in key for key in ours.meta)


def _has_pandas():
    try:
        import pandas  # noqa: F401
    except ImportError:
        return False
    return True


def test_same_shards_give_the_same_bytes(results, tmp_path):
    shards = [tmp_path / f"{k}.parquet" for k in range(3)]
    merge_shards(shards, tmp_path / "again", order=HOSTILE[::-1])
    for name in ("catalog.parquet", "catalog.fits"):
        assert (tmp_path / "again" / name).read_bytes() == (results / name).read_bytes()


def test_shard_ids(results, tmp_path):
    assert shard_ids(tmp_path / "1.parquet") == HOSTILE[4:6]


def test_no_rows_and_all_failed(tmp_path, make_rows):
    merge_shards([], tmp_path / "none", order=[])
    for name in ("catalog.parquet", "catalog.fits"):
        table = read_catalogue(tmp_path / "none" / name)
        assert len(table) == 0 and table["re"].unit == "pix"
    write_shard(tmp_path / "s.parquet", make_rows(["a", "b"], failed=("a", "b")))
    merge_shards([tmp_path / "s.parquet"], tmp_path / "all")
    table = read_catalogue(tmp_path / "all" / "catalog.fits")
    assert list(table["status"]) == ["failed", "failed"]
    assert np.isnan(table["mag"].value).all() and not table["use"].any()


def test_columns_of_any_model_come_back_from_both_files(tmp_path, make_rows):
    """Files describe themselves: nothing is known to the readers of this run's model."""
    moffat = ComponentColumns("core", "moffat", (ShapeColumn("beta", "", "slope of the wings"),))
    bands = (BandParameter(0, "flux"), BandParameter(1, "flux"), BandParameter(0, "beta"))
    model = ModelColumns((moffat, ComponentColumns("disk", "exponential")), ("g", "z"), bands)
    columns = columns_for(model)
    write_shard(tmp_path / "s.parquet", make_rows(["a", "b"], model=model), columns=columns)
    merge_shards([tmp_path / "s.parquet"], tmp_path)
    table = read_catalogue(tmp_path / "catalog.parquet")
    assert_same_tables(table, read_catalogue(tmp_path / "catalog.fits"))
    assert table.colnames == [column.name for column in columns]
    assert table["re_2"].unit == "pix" and table["cov"].shape == (2, 136)
    assert table["mag_2_z"].unit == "mag" and table["sky_g_err"].info.description
    for file in ("catalog.parquet", "catalog.fits"):
        rows = query(tmp_path / file, "SELECT beta_z, fraction_g FROM catalog ORDER BY id")
        assert rows.to_pydict()["beta_z"] == table["beta_z"].tolist()


def test_table_of_something_else_is_no_catalogue(tmp_path):
    Table({"id": ["a"], "status": ["ok"]}).write(tmp_path / "c.fits")
    with fits.open(tmp_path / "c.fits", mode="update") as hdus:
        hdus[1].header["EXTNAME"] = "CATALOG"
    with pytest.raises(InputError, match="columns missing: file, message"):
        read_catalogue(tmp_path / "c.fits")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["a", "b", "c"], "objects without a row: c"),
        (["a"], "rows without an object: b"),
        (["a", "b", "b"], "more than once in the list of objects: b"),
    ],
)
def test_order_must_match(tmp_path, make_rows, order, message):
    write_shard(tmp_path / "s.parquet", make_rows(["a", "b"]))
    with pytest.raises(OutputError, match=message):
        merge_shards([tmp_path / "s.parquet"], tmp_path, order=order)
    assert not (tmp_path / "catalog.parquet").exists()


def test_duplicates_between_shards_are_an_error(tmp_path, make_rows):
    for k in "12":
        write_shard(tmp_path / f"{k}.parquet", make_rows(["same"]))
    with pytest.raises(OutputError, match="more than once .*: same"):
        merge_shards([tmp_path / "1.parquet", tmp_path / "2.parquet"], tmp_path)


def test_shards_of_different_runs_are_refused(tmp_path, make_rows):
    write_shard(tmp_path / "1.parquet", make_rows(["a"]), {"settings_hash": "1"})
    write_shard(tmp_path / "2.parquet", make_rows(["b"]), {"settings_hash": "2"})
    with pytest.raises(OutputError, match="other columns or settings"):
        merge_shards([tmp_path / "1.parquet", tmp_path / "2.parquet"], tmp_path)


def test_truncated_or_missing_shard_names_file_and_remedy(tmp_path, make_rows):
    path = tmp_path / "s.parquet"
    write_shard(path, make_rows(["a"]))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OutputError, match="fitted anew") as caught:
        merge_shards([path], tmp_path)
    assert caught.value.file == path
    with pytest.raises(OutputError, match="missing"):
        shard_ids(tmp_path / "no.parquet")


def test_reading_what_is_no_catalogue(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_catalogue(tmp_path / "absent")
    with pytest.raises(InputError, match=r"holds no catalog\.parquet"):
        read_catalogue(tmp_path)
    for name in ("x.parquet", "x.fits"):
        (tmp_path / name).write_text("no catalogue")
        with pytest.raises(InputError, match="cannot be read"):
            read_catalogue(tmp_path / name)
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    with pytest.raises(InputError, match="no table called CATALOG"):
        read_catalogue(tmp_path / "empty.fits")


def test_query(results):
    table = query(results, "SELECT id, re FROM catalog WHERE use AND has_flag(flags, 'EDGE')")
    assert table.to_pydict()["id"] == ["NaN"]
    table = query(
        results / "catalog.fits",
        "SELECT id, flag_names(flags) AS f FROM catalog WHERE has_fatal_flag(flags) ORDER BY id",
    )
    assert table.to_pydict() == {"id": ["-", "plain"], "f": [["AT_BOUND", "EDGE"], ["FAILED"]]}
    assert query(results, "SELECT count(*) AS k FROM catalog WHERE isfinite(cov[36])").to_pydict()[
        "k"
    ] == [9]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{f}')",
        "SELECT * FROM '{f}'",
        "SELECT * FROM read_text('{f}')",
        "SELECT * FROM glob('/*')",
        "COPY catalog TO '{f}'",
        "COPY (SELECT 1) TO '{f}' (FORMAT csv)",
        "EXPORT DATABASE '{f}'",
        "ATTACH '{f}'",
        "ATTACH ':memory:' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SELECT 1; COPY catalog TO '{f}'",
        "CREATE TABLE mine (a INTEGER)",
        "PRAGMA database_list",
        "SELECT * FROM catalogue",  # a variable of `query`
        "SELECT '\ud800'",
    ],
)
def test_queries_reach_nothing_but_the_catalogue(results, sql, tmp_path):
    file = tmp_path / "here" / "secret.csv"
    file.parent.mkdir()
    file.write_text("a,b\n1,2\n")
    with pytest.raises(SettingsError, match="columns: id, file, status"):
        query(results, sql.format(f=file))
    assert file.read_text() == "a,b\n1,2\n"
    assert list(file.parent.iterdir()) == [file]


def test_columns_of_the_same_name_are_kept(results):
    sql = "SELECT a.id, b.id, 1 AS id_1, b.re FROM catalog a JOIN catalog b ON a.id = b.id"
    table = query(results, sql)
    assert table.column_names == ["id", "id_2", "id_1", "re"]
    assert table["id"].to_pylist() == table["id_2"].to_pylist()


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC id FROM catalog",
        "SELECT radius FROM catalog",
        "SELECT * FROM catalog WHERE has_flag(flags, 'EGDE')",
        "",
    ],
)
def test_bad_sql_says_what_to_do(results, sql):
    with pytest.raises(SettingsError, match="columns: id, file, status"):
        query(results, sql)
