import json
import re
import shutil
import time

import numpy as np
import pytest
from synthetic_results import write_results

from autofit_ml.catalogue import (
    ComponentColumns,
    ModelColumns,
    columns_for,
    empty_rows,
    merge_shards,
    write_shard,
)
from autofit_ml.errors import InputError
from autofit_ml.report import thumbnail_bytes, write_report

HOSTILE = [
    '</script><script>document.title="owned"</script>',
    "<img src=x onerror=document.title='owned'>",
    '"quoted", with comma',
    "../../etc/passwd",
    "NGC 1052-Δ星é & co",
    "{{ 7*7 }}",
    "line\nbreak\u2028x",
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = write_results(folder, 150, previews=False)
    return folder, rows, write_report(folder)


def embedded(report, which="catalogue"):
    page = report.read_text("utf-8")
    text = re.search(
        rf'<script type="application/json" id="{which}">(.*?)</script>', page, re.DOTALL
    )
    return json.loads(text[1])


def expand(column, n):
    if "same" in column:
        return [column["same"]] * n
    if "which" in column:
        return [column["distinct"][k] for k in column["which"]]
    return column["values"]


def small_catalogue(folder, ids, **columns):
    rows = empty_rows(len(ids))
    rows["id"][:] = ids
    for name, values in columns.items():
        rows[name][:] = values
    write_shard(folder / "s.parquet", rows)
    merge_shards([folder / "s.parquet"], folder)
    return folder


def test_embedded_data_are_the_catalogue(results):
    _, rows, report = results
    payload = embedded(report)
    columns = {column["name"]: column for column in payload["columns"]}
    assert payload["rows"] == 150 and "cov" not in columns
    assert expand(columns["id"], 150) == rows["id"].tolist()
    assert expand(columns["flags"], 150) == rows["flags"].tolist()
    assert columns["re"]["unit"] == "pix" and "semi-major" in columns["re"]["about"]
    for name in ("re", "mag", "snr", "chi2_red", "x_err", "pa_init"):
        found = np.array(expand(columns[name], 150), dtype=float)
        np.testing.assert_allclose(found, rows[name], rtol=1e-6, err_msg=name)  # NaN <-> null
    ra = np.array(expand(columns["ra"], 150), dtype=float)
    np.testing.assert_allclose(ra, rows["ra"], rtol=1e-9)  # 150.1234567 deg: 1 mas


def test_report_needs_nothing_else(results):
    _, _, report = results
    page = report.read_text("utf-8")
    page = page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?://|<link[^>]*stylesheet|<script[^>]*src|@import|url\(", page)
    thumbnails = embedded(report, "thumbnails")
    assert len(thumbnails) == 150 and all(thumbnails)
    assert not [path for path in report.parent.iterdir() if "tmp" in path.name]


def test_run_settings_are_shown(results):
    page = results[2].read_text("utf-8")
    for text in (
        "<dt>segmenter</dt><dd>sep</dd>",
        "<dt>torch</dt><dd>2.5.1</dd>",
        "abababababab…<",
    ):
        assert text in page


def test_thumbnails_are_held_and_previews_are_marked(results, tmp_path):
    ids = [f"o{i}" for i in range(6)]
    small_catalogue(tmp_path, ids)
    kinds = (
        (".work/thumbs", "jpg"),
        ("previews", "png"),
        ("objects", "fits"),
        ("posterior", "png"),
    )
    for folder, ending in kinds:
        (tmp_path / folder).mkdir(parents=True)
        for name in ids[1:]:
            (tmp_path / folder / f"{name}.{ending}").write_bytes(b"x" * 10)
    report = write_report(tmp_path)
    thumbnails = embedded(report, "thumbnails")
    assert [bool(t) for t in thumbnails] == [False, True, True, True, True, True]
    for kind in ("previews", "objects", "posteriors"):
        assert embedded(report)[kind] == "011111"


def test_columns_of_any_model_are_embedded(tmp_path):
    model = ModelColumns((ComponentColumns(), ComponentColumns("disk", "exponential")))
    rows = empty_rows(1, columns_for(model))
    rows["id"][:], rows["status"][:], rows["flags"][:] = "a", "ok", 0
    rows["fraction"][:], rows["re_2"][:] = 0.25, 7.5
    write_shard(tmp_path / "s.parquet", rows, columns=columns_for(model))
    merge_shards([tmp_path / "s.parquet"], tmp_path)
    payload = embedded(write_report(tmp_path))
    names = [column["name"] for column in payload["columns"]]
    assert names == [c.name for c in columns_for(model) if c.size == 1]
    columns = {column["name"]: column for column in payload["columns"]}
    assert expand(columns["fraction"], 1) == [0.25] and expand(columns["re_2"], 1) == [7.5]
    assert "Component 2 (disk, exponential)" in columns["re_2"]["about"]


def test_thumbnail_bytes_stays_in_its_folder(tmp_path):
    (tmp_path / ".work" / "thumbs").mkdir(parents=True)
    (tmp_path / ".work" / "secret.jpg").write_bytes(b"secret")
    (tmp_path / ".work" / "thumbs" / "a.jpg").write_bytes(b"a")
    assert thumbnail_bytes(tmp_path, "a") == b"a"
    for name in ("b", "../secret", "", "..", "nul\0", "x" * 400):
        assert thumbnail_bytes(tmp_path, name) is None


def test_hostile_strings_stay_text(tmp_path):
    small_catalogue(tmp_path, HOSTILE, message=HOSTILE[::-1])
    run = {"versions": {"<b>x</b>": HOSTILE[0]}, "note": HOSTILE[1]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    report = write_report(tmp_path, title=HOSTILE[0])
    page = report.read_text("utf-8")
    assert page.count("</script>") == 3 and page.count("<script") == 3
    assert "<img src=x" not in page and "<b>x</b>" not in page
    columns = {column["name"]: column for column in embedded(report)["columns"]}
    assert expand(columns["id"], len(HOSTILE)) == HOSTILE
    assert expand(columns["message"], len(HOSTILE)) == HOSTILE[::-1]


def test_hostile_strings_in_a_browser(tmp_path, browse):
    small_catalogue(tmp_path, HOSTILE, message=HOSTILE[::-1])
    page = browse(write_report(tmp_path, title="safe"), "view=table")
    assert "<title>safe" in page and 'data-shown="7"' in page
    assert "&lt;img src=x onerror" in page and "<img src=x" not in page


def test_no_rows_and_all_failed(tmp_path, browse):
    merge_shards([], tmp_path)
    assert "The catalogue has no objects." in browse(write_report(tmp_path))
    small_catalogue(tmp_path, ["a", "b"], message=["no PSF", "all pixels masked"])
    for view in ("gallery", "plots"):
        page = browse(write_report(tmp_path), f"view={view}")
        assert 'data-shown="2"' in page
        assert ("all pixels masked" if view == "gallery" else "no values") in page.split("<script")[
            0
        ]


def cards(page):
    return re.findall(r'class="name" title="([^"]*)"', page)


def test_hash_filters_and_sorts(results, browse):
    _, rows, report = results
    edge = (rows["flags"] & (1 << 5)) != 0
    wanted = edge & (rows["re"] >= 3)
    page = browse(report, "flag=+EDGE&re_min=3")
    assert f'data-shown="{wanted.sum()}"' in page and 0 < wanted.sum() < edge.sum()
    assert cards(page) == rows["id"][wanted].tolist()

    sigma = (rows["flags"] & (1 << 8)) != 0
    ok = rows["status"] == "ok"
    wanted = np.flatnonzero(~sigma & ok & (rows["n"] <= 1.5))
    wanted = wanted[np.argsort(-rows["mag"][wanted])]
    page = browse(report, "flag=-SIGMA_ESTIMATED&n_max=1.5&status=ok&sort=-mag&find=KIDS")
    assert cards(page) == rows["id"][wanted].tolist()[:60]


def test_table_detail_and_failed_objects_in_a_browser(results, browse):
    _, rows, report = results
    failed = rows["id"][rows["status"] == "failed"]
    page = browse(report, f"view=table&status=failed&id={failed[0]}")
    body = page.split('<script type="application/json"')[0]
    assert body.count("<tr>") == len(failed) + 1
    assert '<dialog id="detail" aria-labelledby="detail-title" open' in body
    assert "no PSF (give one with --psf FILE" in body.split("<dialog")[1]

    fitted = rows["id"][rows["status"] == "ok"][0]
    body = browse(report, f"id={fitted}").split("<dialog")[1].split("<script")[0]
    assert "±" in body and "Half-light radius along the semi-major axis" in body


def test_paging_and_nonsense_in_the_hash(results, browse):
    _, rows, report = results
    assert cards(browse(report, "page=2")) == rows["id"].tolist()[60:120]
    page = browse(
        report, "view=moon&sort=nothing&flag=+NONE&re_min=abc&x=%E0%A4&cols=&page=-3&id=no"
    )
    assert cards(page) == rows["id"].tolist()[:60]
    assert len(cards(browse(report, "page=99"))) == 30


def test_plots_follow_the_filter(results, browse):
    _, rows, report = results
    page = browse(report, "view=plots&n_min=2")
    wanted = (rows["n"] >= 2).sum()
    assert f'data-shown="{wanted}"' in page
    assert page.count("<figure") == 8
    dots = re.findall(r'class="dots (\w+)" d="([^"]*)"', page)
    assert [name for name, _ in dots] == ["others", "chosen"] * 2
    assert dots[1][1].count("M") <= wanted < dots[0][1].count("M")


ACTIONS = """
<script>
const seen = [];
const note = (what) => seen.push(`${what}: ${document.getElementById("count").dataset.shown} ${location.hash}`);
const press = (selector) => document.querySelector(selector).click();
const type = (selector, text) => {
  const input = document.querySelector(selector);
  input.value = text;
  input.dispatchEvent(new Event("input"));
};
press('[data-flag="EDGE"]'); note("with EDGE");
press('[data-flag="EDGE"]'); note("without EDGE");
type('[data-name="re"] [data-side="0"]', "3"); note("re from 3");
type('[data-name="re"] [data-side="0"]', "three"); note("not a number");
press("#reset"); note("reset");
press("#summary .failed"); note("failed");
press("#reset");
press('[data-view="table"]'); press("thead th:nth-child(6) button"); press("thead th:nth-child(6) button");
note("sorted");
press("tbody a"); note(`open ${document.getElementById("detail").open}`);
const first = document.getElementById("detail-title").textContent;
document.getElementById("detail").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
seen.push(`moved: ${first !== document.getElementById("detail-title").textContent}`);
document.getElementById("detail").close();
setTimeout(() => {
  note(`open ${document.getElementById("detail").open}`);
  press('[data-view="plots"]');
  const plot = document.querySelector("svg.drag");
  plot.setPointerCapture = () => {};
  const box = plot.getBoundingClientRect();
  const at = (kind, x) => plot.dispatchEvent(
    new PointerEvent(kind, { clientX: box.left + x * box.width, clientY: box.top + 50 }));
  at("pointerdown", 0.3); at("pointermove", 0.5); at("pointerup", 0.6);
  note("dragged");
  let blob;
  URL.createObjectURL = (given) => { blob = given; return "data:,"; };
  HTMLAnchorElement.prototype.click = () => {};
  document.getElementById("export").click();
  blob.text().then((text) => {
    seen.push(`exported: ${text.trim().split("\\r\\n").length - 1} ${text.slice(0, 2)}`);
    document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: seen.join("\\n") }));
  });
}, 50);
</script>
</body>
"""


def test_a_user_s_actions(results, tmp_path, browse):
    """Presses, typing, dragging, keys: driven by a script added to a copy of the report."""
    _, rows, report = results
    copy = tmp_path / "report.html"
    copy.write_text(report.read_text("utf-8").replace("</body>", ACTIONS), "utf-8")
    page = browse(copy, wait_ms=500)
    seen = re.search(r'<pre id="seen">(.*?)</pre>', page, re.DOTALL)
    assert seen, "the script did not come to its end"
    lines = seen[1].replace("&amp;", "&").splitlines()
    edge = (rows["flags"] & (1 << 5)) != 0
    large = (~edge & (rows["re"] >= 3)).sum()
    n_failed = (rows["status"] == "failed").sum()
    assert lines[:6] == [
        f"with EDGE: {edge.sum()} #flag=+EDGE",
        f"without EDGE: {(~edge).sum()} #flag=-EDGE",
        f"re from 3: {large} #flag=-EDGE&re_min=3",
        f"not a number: {large} #flag=-EDGE&re_min=3",
        "reset: 150 ",
        f"failed: {n_failed} #status=failed",
    ]
    assert lines[6] == "sorted: 150 #view=table&sort=-mag"
    faintest = rows["id"][np.nanargmax(rows["mag"])]
    assert lines[7] == f"open true: 150 #view=table&sort=-mag&id={faintest}"
    assert lines[8] == "moved: true"
    assert lines[9] == "open false: 150 #view=table&sort=-mag"
    low, high = map(float, re.search(r"mag_min=([\d.]+)&mag_max=([\d.]+)", lines[10]).groups())
    chosen = ((rows["mag"] >= low) & (rows["mag"] <= high)).sum()
    assert lines[10].startswith(f"dragged: {chosen} ") and 0 < chosen < 150
    assert lines[11] == f"exported: {chosen} id"


def test_ten_thousand_rows(tmp_path, browse):
    write_results(tmp_path, 10_000, images=False)
    start = time.process_time()
    report = write_report(tmp_path)
    assert time.process_time() - start < 10
    assert report.stat().st_size < 5e6
    page = browse(report, "view=table&sort=-snr&n_min=3")
    assert len(re.findall("<tr>", page)) == 101  # a page of the table, not all of it


def test_a_large_report_has_the_rest_beside_it(results, tmp_path, browse):
    """Pictures and further columns come from files when they are looked at; sorting needs none."""
    _, rows, report = results
    folder = tmp_path / "run"
    shutil.copytree(report.parent, folder)
    large = write_report(folder, self_contained=100)
    assert embedded(large, "thumbnails") == []
    assert large.stat().st_size < report.stat().st_size / 4
    held = {c["name"] for c in embedded(large)["columns"] if len(c) > 4}
    assert {"id", "re", "re_err", "flags"} <= held and not {"re_init", "file"} & held
    page = browse(large, "sort=-re")
    assert cards(page)[0] == rows["id"][np.nanargmax(rows["re"])]
    assert page.count('src=".work/thumbs/kids_') == 60
    k = int(np.flatnonzero(rows["status"] == "ok")[-1])
    detail = browse(large, f"id={rows['id'][k]}", wait_ms=2000).split("<dialog")[1]
    assert f">images/{rows['id'][k]}_image.fits<" in detail and ">pix" in detail
    (folder / "report_rows" / "0.js").unlink()
    detail = browse(large, f"id={rows['id'][k]}", wait_ms=2000).split("<dialog")[1]
    assert "report_rows/0.js) are not beside this report" in detail and "±" in detail
    write_report(folder)  # small again: nothing stale is left
    assert not (folder / "report_rows").exists()


def test_calibration_and_warnings_stand_first(tmp_path):
    small_catalogue(tmp_path, ["a", "b"], flags=[1, 1])
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "verdict.json").write_text('["Errors are right."]')
    page = write_report(tmp_path).read_text("utf-8")
    assert "Errors are right." in page and 'href="calibration/calibration.html"' in page
    assert page.index("Errors are right.") < page.index("2 of 2 objects") < page.index("<aside")
    (tmp_path / "calibration" / "verdict.json").write_text("{")
    assert "calibration.html" not in write_report(tmp_path).read_text("utf-8")


def test_damaged_run_json_is_named(tmp_path):
    small_catalogue(tmp_path, ["a"])
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json: cannot be read"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="holds no catalog"):
        write_report(tmp_path.parent)
