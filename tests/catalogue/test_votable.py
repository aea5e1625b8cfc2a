import io
import warnings

import pytest
from astropy.io.votable.ucd import check_ucd
from astropy.table import QTable

from autofit_ml.catalogue import columns_for, empty_rows, query, rows_to_table
from autofit_ml.catalogue.files import write_catalogue_files
from autofit_ml.catalogue.samp import send_table
from autofit_ml.catalogue.votable import ucd_of, votable_bytes
from autofit_ml.errors import InputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # astropy 8 announces that this part moves to pyvo
    from astropy.samp import SAMPHubServer, SAMPIntegratedClient
    from astropy.samp import conf as samp_conf


@pytest.fixture
def catalogue():
    rows = empty_rows(2)
    rows["status"][:] = "ok"
    rows["id"][:], rows["re"][:], rows["flags"][:] = ["a", "星"], [1.5, 2.5], 0
    return rows_to_table(rows)


def test_ucds_are_of_the_controlled_vocabulary():
    named = {column.name: ucd_of(column.name) for column in columns_for()}
    wrong = {name: ucd for name, ucd in named.items() if ucd and not check_ucd(ucd, True, True)}
    assert not wrong
    assert named["ra"] == "pos.eq.ra;meta.main"
    assert named["mag_err"] == "stat.error;phot.mag" == ucd_of("mag_2_err")
    assert sum(map(bool, named.values())) > 30 and not named["re_init"]


def test_a_votable_holds_the_catalogue(catalogue):
    table = QTable.read(io.BytesIO(votable_bytes(catalogue)), format="votable")
    assert list(table["id"]) == ["a", "星"]
    assert table["re"].unit == "pix" and list(table["re"].value) == [1.5, 2.5]
    assert "semi-major" in table["re"].info.description
    assert table["re"].info.meta["ucd"] == "phys.angSize.smajAxis"


def test_a_selection_is_sent_by_samp(catalogue, tmp_path, monkeypatch):
    """To a program on a hub of its own, which reads the file before it answers."""
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{(tmp_path / 'samp').as_uri()}")
    monkeypatch.setattr(samp_conf, "use_internet", False)
    with pytest.raises(InputError, match="no SAMP hub is running"):
        send_table(catalogue, "run")
    hub = SAMPHubServer(web_profile=False, mode="single", lockfile=str(tmp_path / "samp"))
    hub.start()
    taker = SAMPIntegratedClient("reader", metadata={"samp.name": "reader"})
    try:
        with pytest.raises(InputError, match="takes tables"):
            send_table(catalogue, "run")
        taker.connect()
        got = []

        def load(key, sender, identity, kind, content, extra):
            table = QTable.read(content["url"].removeprefix("file://"), format="votable")
            got.append((content["name"], table))
            taker.reply(identity, {"samp.status": "samp.ok", "samp.result": {}})

        taker.bind_receive_call("table.load.votable", load)
        write_catalogue_files(catalogue, tmp_path)
        chosen = query(tmp_path, "SELECT id, re FROM catalog WHERE re > 2")
        assert send_table(chosen, "run") == ["reader"]
        ((name, table),) = got
        assert name == "run" and list(table["id"]) == ["星"] and table["re"].unit == "pix"
    finally:
        if taker.is_connected:
            taker.disconnect()
        hub.stop()


def test_qtable_read_finds_units_and_descriptions(catalogue, tmp_path):
    """In both files, without anything of this package; with no warning."""
    write_catalogue_files(catalogue, tmp_path)
    for name in ("catalog.fits", "catalog.parquet"):
        table = QTable.read(tmp_path / name)
        for column in columns_for():
            assert table[column.name].info.description == column.description, (name, column.name)
        assert table["re"].unit == "pix"
