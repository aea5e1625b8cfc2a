"""A GPU in five minutes: python benchmarks/gpu.py [SECTION ...] [--out FOLDER] [--device cuda]

Makes its own inputs with the package's renderer: neither GalSim nor Hydra is needed. Each section
writes a Markdown table into FOLDER; one that fails does not stop the others, and the status is 1
if any failed or missed a bar.

- ``agreement``: results of the device beside the CPU's: fits of usual, saturated and faint stamps,
  starts and labels of the networks, samples of the deconvolution, light of the renderer.
- ``fits``: galaxies a second of `refine` by the number fitted together.
- ``networks``: images a second through each network, and stamps a second drawn, by batch.
- ``training``: images a second of each network's training, from loss to step.
- ``deconvolution``: 64 posterior samples of 64 objects.
- ``pipeline``: 8 289 stamps of 128 x 128 pixels from files to the catalogue; as many of them as
  its share of the time allows.

``--quick`` shows on any machine in a minute that everything runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import yaml
from astropy.io import fits
from documents import machine, markdown_table

import autofit_ml as afm
from autofit_ml.deconvolution import SamplingSettings, deconvolve_each
from autofit_ml.deconvolution.target import target_psf
from autofit_ml.fitting import RefineSettings
from autofit_ml.images.psf import moffat_psf
from autofit_ml.images.stamp import PSF, Stamp
from autofit_ml.initialisation.cutouts import PSF_SIDE, SCALARS, SIDE
from autofit_ml.initialisation.network import network_inputs
from autofit_ml.segmentation import Segmentation
from autofit_ml.segmentation.maskrcnn import segment_maskrcnn
from training.endless import EndlessSersic, EndlessSettings, render_scene

REPOSITORY = Path(__file__).resolve().parents[1]
SURVEY = 8289
SEGMENTER, INITIALISER, PRIOR = "segment/ground-any", "initialise/multi-any", "deconvolve"
BATCHES = {False: (64, 256, 1024, 4096), True: (8, 16)}


@dataclass(frozen=True)
class Task:
    """Where and how much.

    Attributes
    ----------
    device : str
        "cpu" or "cuda".
    quick : bool
    """

    device: str
    quick: bool

    def size(self, usual: int, quick: int) -> int:
        """A number of objects."""
        return quick if self.quick else usual

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def rate(self, work: Callable[[], Any], number: int, seconds: float = 3.0) -> float:
        """Objects a second of `work`, which does `number` of them; after a first, untimed call."""
        work()
        self.wait()
        began, done = time.perf_counter(), 0
        while done == 0 or (not self.quick and time.perf_counter() - began < seconds):
            work()
            self.wait()
            done += number
        return done / (time.perf_counter() - began)

    def memory(self) -> str:
        """Largest use of the device's memory since the last call."""
        if self.device != "cuda":
            return ""
        most = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return f"{most:.1f}"


# ------------------------------------------------------------------ inputs

SCENES = EndlessSettings(
    snr=(20, 500), re=(1.5, 8), n=(0.6, 5), q=(0.2, 1), psf_fwhm=(2.5, 4), gain=(20, 200)
)


def drawn(
    number: int, side: int, seed: int, *, saturated: bool = False, **changes: Any
) -> tuple[list[Stamp], list[Segmentation]]:
    """Simulated stamps with their labels; always drawn on the CPU.

    Saturated ones have everything above a tenth of their peak masked.
    """
    settings = dataclasses.replace(SCENES, shape=(side, side), **changes)
    source = EndlessSersic(settings, 64, seed=seed)
    stamps: list[Stamp] = []
    found: list[Segmentation] = []
    step = 0
    while len(stamps) < number:
        batch = {name: plane.numpy() for name, plane in source.batch(step).items()}
        step += 1
        for k in range(min(64, number - len(stamps))):
            image, labels = batch["image"][k], batch["labels"][k]
            mask = batch["mask"][k]
            if saturated:
                mask = mask | (batch["light"][k] > 0.1 * batch["light"][k].max())
            others = labels > 1
            for axis in (0, 1):  # a pixel more, as segmenters do
                others = others | np.roll(others, 1, axis) | np.roll(others, -1, axis)
            stamps.append(
                Stamp(
                    f"galaxy{len(stamps):06d}",
                    image,
                    batch["sigma"][k],
                    mask,
                    PSF(batch["psf"][k]),
                    pixel_scale=0.396,
                )
            )
            sky, rms = float(batch["sky"][k]), float(batch["sky_rms"][k])
            contaminants = others & (labels != 1)
            found.append(Segmentation(labels, 1, contaminants, sky, rms, method="given"))
    return stamps, found


def network_of(task: Task, name: str) -> Any:
    """A pretrained network on the device."""
    newest = {info.task: info.name for info in reversed(afm.list_weights())}
    return afm.load(newest.get(name, name), task.device)


def model_settings(name: str) -> dict[str, Any]:
    """``conf/model`` without Hydra."""
    folder = REPOSITORY / "conf" / "model"
    values = yaml.safe_load((folder / f"{name}.yaml").read_text())
    for group in values.pop("defaults", []):
        if isinstance(group, Mapping):
            values |= {
                key: yaml.safe_load((folder / key / f"{choice}.yaml").read_text())
                for key, choice in group.items()
            }
    values.pop("task")
    return values


# ------------------------------------------------------------------ sections

Table = tuple[Sequence[str], list[list[str]], list[str]]
"""Header, rows, and which bars were missed."""


def agreement(task: Task) -> Table:
    """Results of the device beside the CPU's."""
    header = ["what", "objects", "difference: median", "99 %", "largest", "unit", "bar (99 %)"]
    rows: list[list[str]] = []
    missed: list[str] = []

    def judged(what: str, difference: np.ndarray, unit: str, bar: float) -> None:
        size = np.abs(difference).reshape(len(difference), -1).max(1)
        share = [float(np.quantile(size, q)) for q in (0.5, 0.99, 1.0)]
        rows.append([what, str(len(size)), *(f"{v:.2g}" for v in share), unit, f"{bar:g}"])
        if not share[1] <= bar:
            missed.append(f"{what}: {share[1]:.3g} {unit}, bar {bar:g}")

    number = task.size(400, 6)
    kinds: dict[str, dict[str, Any]] = {
        "usual": {"neighbours": 1.0, "max_sources": 4},
        "saturated": {"snr": (3e3, 3e4), "saturated": True},
        "faint": {"snr": (5, 15)},
    }
    for k, (kind, changes) in enumerate(kinds.items()):
        stamps, found = drawn(number, 64, 100 + k, **changes)
        starts = afm.initialise(stamps, found, "moments")
        here, there = (
            afm.refine(stamps, None, starts, found, RefineSettings(device=device))
            for device in ("cpu", task.device)
        )
        both = np.isfinite(here.values).all(1) & np.isfinite(there.values).all(1)
        error = np.nan_to_num(here.errors[both], nan=np.inf)
        change = (there.values[both] - here.values[both]) / np.where(error > 0, error, np.inf)
        judged(f"fits, {kind}: values", change, "sigma", 0.05)
        judged(
            f"fits, {kind}: errors",
            np.nan_to_num(there.errors[both] / here.errors[both] - 1),
            "relative",
            0.02,
        )
        other = int((here.flags != there.flags).sum() + (~both).sum())
        rows.append([f"fits, {kind}: other flags", str(number), "", "", str(other), "", ""])
        if other > 0.02 * number:
            missed.append(f"fits, {kind}: {other} of {number} have other flags")

    stamps, found = drawn(task.size(200, 4), 128, 110, neighbours=3.0, max_sources=6)
    here, there = (
        afm.initialise(stamps, found, "resnet", weights=INITIALISER, device=device)
        for device in ("cpu", task.device)
    )
    sigma = np.sqrt(np.diagonal(here.cov, axis1=1, axis2=2))[:, :2] + 1e-6
    judged("starts: x, y", (there.values - here.values)[:, :2] / sigma, "sigma", 0.05)
    judged("starts: re", there.values[:, 3:4] / here.values[:, 3:4] - 1, "relative", 0.01)
    labels = []
    for device in ("cpu", task.device):
        network = network_of(dataclasses.replace(task, device=device), SEGMENTER)
        labels.append([one.labels > 0 for one in segment_maskrcnn(stamps[:64], network)])
    judged(
        "labels",
        np.array([[np.mean(a != b)] for a, b in zip(*labels, strict=True)]),
        "share of pixels",
        0.01,
    )

    stamps, _ = drawn(task.size(8, 1), 64, 120)
    sharp = []
    for device in ("cpu", task.device):
        settings = SamplingSettings(samples=4, steps=task.size(24, 4), device=device, prior=False)
        sharp.append([result for _, result in deconvolve_each(stamps, settings)])
    for result in (one for some in sharp for one in some if isinstance(one, Exception)):
        raise result
    off = [
        [np.sqrt(np.square(b.samples - a.samples).mean() / np.square(a.std).mean())]
        for a, b in zip(*sharp, strict=True)
    ]
    judged("deconvolved samples, root mean square", np.array(off), "their scatter", 0.05)
    light = EndlessSersic(dataclasses.replace(SCENES, shape=(64, 64)), 32, seed=3).batch(0)
    images = [
        render_scene(light["catalogue"].to(d), light["psf"].to(d), (64, 64)).cpu().numpy()
        for d in ("cpu", task.device)
    ]
    peak = images[0].max((1, 2, 3), keepdims=True)
    judged("rendered light", (images[1] - images[0]) / peak, "peak", 1e-4)
    return header, rows, missed


def throughput(task: Task) -> Table:
    """`refine` by the number fitted together."""
    rows = []
    for side, most in ((64, 8192), (128, 2048)):
        stamps, found = drawn(task.size(most, 8), side, 200 + side)
        for batch in BATCHES[task.quick]:
            if batch > len(stamps):
                continue
            settings = RefineSettings(device=task.device, batch_size=batch)
            part = afm.initialise(stamps[:batch], found[:batch], "moments")
            work = [stamps[:batch], None, part, found[:batch], settings]
            rate = task.rate(lambda work=work: afm.refine(*work), batch, 2.0)
            row = [f"{side} x {side}", str(batch), f"{rate:.0f}", f"{1e3 / rate:.3f}"]
            rows.append([*row, task.memory()])
        if task.device == "cuda":
            few = task.size(256, 4)
            part = afm.initialise(stamps[:few], found[:few], "moments")
            work = [stamps[:few], None, part, found[:few], RefineSettings()]
            cpu = dataclasses.replace(task, device="cpu", quick=True)
            rate = cpu.rate(lambda work=work: afm.refine(*work), few)
            row = [f"{side} x {side}", f"{few}, on the CPU", f"{rate:.0f}", f"{1e3 / rate:.3f}"]
            rows.append([*row, ""])
    header = ["stamps", "together", "galaxies a second", "ms a galaxy", "memory, GiB"]
    return header, rows, []


def networks(task: Task) -> Table:
    """Images through each network, and stamps drawn."""
    rows = []

    def added(what: str, batch: int, work: Callable[[], Any]) -> None:
        with torch.inference_mode():
            rate = task.rate(work, batch, 1.0)
        rows.append([what, str(batch), f"{rate:.0f}", task.memory()])

    segmenter, initialiser = network_of(task, SEGMENTER), network_of(task, INITIALISER)
    prior = network_of(task, PRIOR)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(task.device)

    for batch in BATCHES[task.quick]:
        if batch <= 256:
            images = list(noise(batch, 4, 128, 128))
            added("Mask R-CNN, 128 x 128", batch, lambda images=images: segmenter(images))
        inputs = network_inputs(
            noise(batch, SIDE, SIDE),
            torch.ones(batch, SIDE, SIDE, device=task.device),
            torch.ones(batch, SIDE, SIDE, dtype=torch.bool, device=task.device),
            noise(batch, PSF_SIDE, PSF_SIDE).abs(),
            noise(batch, len(SCALARS)),
        )
        added("initialiser, cut-outs", batch, lambda inputs=inputs: initialiser(*inputs))
        if batch <= 1024:
            u, q = noise(batch, 64, 64), torch.ones(batch, 64, 33, device=task.device)
            added("denoiser, 64 x 64", batch, lambda u=u, q=q: prior.denoise(u, q))
        source = EndlessSersic(
            dataclasses.replace(SCENES, shape=(64, 64)), batch, seed=1, device=task.device
        )
        added("stamps drawn, 64 x 64", batch, lambda source=source: source.batch(0))
    rows.sort(key=lambda row: (row[0], int(row[1])))
    return ["what", "together", "images a second", "memory, GiB"], rows, []


def training(task: Task) -> Table:
    """Losses, gradients and steps of each network as it is configured."""
    from training.settings import typed
    from training.tasks.deconvolve.module import DeconvolveModule, DeconvolveTraining
    from training.tasks.initialise.endless import endless_cut_outs
    from training.tasks.initialise.module import InitialiseModule, InitialiseTraining
    from training.tasks.segment.module import SegmentModule, SegmentSettings

    rows = []

    def added(what: str, module: Any, batch: Any, number: int, precision: torch.dtype) -> None:
        module = module.to(task.device).train()
        optimiser = module.configure_optimizers()["optimizer"]
        half, losses = precision != torch.float32, []

        def step() -> None:
            with torch.autocast(task.device, precision, enabled=half):
                loss, _ = module.loss(batch)
            losses.append(loss.detach())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), module.optimiser.clip)
            optimiser.step()

        rate = task.rate(step, number, 4.0)
        if not torch.stack(losses).isfinite().all():
            raise FloatingPointError(f"{what}: a loss is not finite in {precision}")
        kind = str(precision).removeprefix("torch.")
        rows.append([what, str(number), kind, f"{rate:.0f}", task.memory()])

    torch.manual_seed(0)
    # What a trainer chooses on a GPU, and single precision beside it.
    precisions = (torch.bfloat16, torch.float32) if task.device == "cuda" else (torch.float32,)
    number = task.size(256, 4)
    endless = {"snr": (10, 1000), "re": (1.5, 8), "n": (0.6, 5)}
    cuts = {
        name: plane.to(task.device)
        for name, plane in endless_cut_outs(
            {"endless": endless, "count": number}, 1, task.device
        ).items()
    }
    for precision in precisions:
        initialise = typed(InitialiseTraining, model_settings("initialise"))
        loss = dataclasses.replace(initialise.loss, ramp=(0.0, 0.0))  # every term from the start
        initialise = dataclasses.replace(initialise, loss=loss)
        module = InitialiseModule(initialise, 1000)
        added("initialiser, cut-outs", module, cuts, number, precision)
        segment = typed(SegmentSettings, model_settings("segment"))
        images = task.size(16, 1)
        batch = detection_batch(task, segment, images)
        added("Mask R-CNN, 128 x 128", SegmentModule(segment, 1000), batch, images, precision)
    deconvolve = typed(DeconvolveTraining, model_settings("deconvolve"))
    if task.quick:
        small = dataclasses.replace(deconvolve.network, widths=(32, 64), blocks=(1, 1))
        deconvolve = dataclasses.replace(deconvolve, network=small)
    for bfloat16 in (True, False):
        kind = torch.bfloat16 if bfloat16 else torch.float32
        changed = dataclasses.replace(deconvolve, bfloat16=bfloat16, cropped=0.0)
        for side in (64,) if task.quick else (64, 112):
            several = task.size(64, 2)
            module = DeconvolveModule(changed, 1000)
            classes = module.network.class_mean
            classes.copy_(sharp(len(classes), classes.shape[-1]))
            module.network.class_power.fill_(1e-3)
            galaxies = sharp(several, side).to(task.device)
            # Its own switch of precision; outside of the U-Net it is float32 always.
            added(f"denoiser, {side} x {side}", module, galaxies, several, kind)
    return ["network", "batch", "precision", "images a second", "memory, GiB"], rows, []


def detection_batch(task: Task, settings: Any, number: int) -> Any:
    """A batch of the Mask R-CNN's: images and targets of simulated stamps, on the device."""
    from autofit_ml.simulation.dataset import SOURCE_COLUMNS, SOURCE_KINDS
    from training.tasks.segment.targets import SegmentTransform, collate

    scenes = dataclasses.replace(SCENES, shape=(128, 128), neighbours=8.0, max_sources=10)
    batch = EndlessSersic(scenes, number, seed=5).batch(0)
    transform = SegmentTransform(settings.preprocessing, settings.instances, settings.augment)
    items = []
    for k in range(number):
        many = int(batch["number"][k])
        sources = torch.zeros(many, len(SOURCE_COLUMNS))
        sources[:, SOURCE_COLUMNS.index("snr")] = batch["snr"][k, :many]
        sources[:, SOURCE_COLUMNS.index("n_pixels")] = batch["n_pixels"][k, :many].float()
        item = {name: batch[name][k] for name in ("labels", "mask", "sky", "sky_rms", "psf_fwhm")}
        classes = torch.full((many,), SOURCE_KINDS.index("sersic"))
        items.append({**item, "data": batch["image"][k], "sources": sources, "classes": classes})
    items = [transform(item) for item in items]
    return collate([{k: v.to(task.device) for k, v in item.items()} for item in items])


def sharp(number: int, side: int) -> torch.Tensor:
    """Galaxies of unit flux as they look through the target PSF."""
    psf = torch.from_numpy(target_psf().data)[None].expand(number, -1, -1).contiguous()
    rng = np.random.default_rng(7)
    middle = np.full(number, (side - 1) / 2)
    columns = [
        middle + rng.uniform(-1, 1, number),
        middle + rng.uniform(-1, 1, number),
        np.ones(number),
        np.exp(rng.uniform(np.log(1.5), np.log(10), number)),
        rng.uniform(0.6, 4, number),
        rng.uniform(0.2, 1, number),
        rng.uniform(0, 180, number),
    ]
    light = render_scene(torch.from_numpy(np.stack(columns, 1))[:, None], psf, (side, side))[:, 0]
    return light / light.sum((1, 2), keepdim=True)


def deconvolution(task: Task) -> Table:
    """Posterior samples, object by object."""
    rows = []
    objects, samples = task.size(64, 1), task.size(64, 4)
    stamps, _ = drawn(objects, 64, 300)
    # Wider than the target PSF, and the same for all.
    stamps = [stamp.replace(psf=moffat_psf(3.5, half_size=15)) for stamp in stamps]
    for precision in ("float32", "bfloat16"):
        for batch in (64,) if task.quick else (16, 32, 64):
            settings = SamplingSettings(
                samples=samples,
                steps=task.size(48, 4),
                device=task.device,
                precision=precision,
                batch=batch,
                prior=False,
            )
            if task.device == "cuda":
                list(deconvolve_each(stamps[:1], settings))
            began = time.perf_counter()
            results = [result for _, result in deconvolve_each(stamps, settings)]
            task.wait()
            seconds = time.perf_counter() - began
            for result in (one for one in results if isinstance(one, Exception)):
                raise result
            row = [f"{objects} objects x {samples} samples, {precision}", str(batch)]
            rows.append([*row, f"{seconds:.1f}", f"{seconds / objects:.2f}", task.memory()])
    header = ["EPS, 64 x 64", "images together", "seconds", "seconds an object", "memory, GiB"]
    return header, rows, []


RUNS: dict[str, tuple[bool, dict[str, str]]] = {
    "masks given, neighbours masked, starts from moments": (
        True,
        {"neighbours": "mask", "init": "moments"},
    ),
    "masks given, else the defaults": (True, {}),
    "defaults: both networks, neighbours fitted along": (False, {}),
}
"""What is run on the survey -> whether labels are given, options."""


_SHARE = 25.0
"""Seconds that each of the runs may take."""


def pipeline(task: Task) -> Table:
    """From files to the catalogue: a few stamps, then as many as the time allows."""
    rows, missed = [], []
    different = task.size(512, 3)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        stamps, found = drawn(different, 128, 400, neighbours=2.0, max_sources=6)
        for labels in (True, False):
            write(root / f"some-{labels}", stamps, found if labels else None)

        def run(labels: bool, number: int, options: Mapping[str, str]) -> tuple[float, int]:
            """Seconds, and how many failed."""
            for old in ("images", "results"):
                shutil.rmtree(root / old, ignore_errors=True)
            linked(root / f"some-{labels}", root / "images", number, different)
            began = time.perf_counter()
            table = afm.fit(
                root / "images", out=root / "results", device=task.device, save="none", **options
            )
            return time.perf_counter() - began, int((table["status"] != "ok").sum())

        for what, (labels, options) in RUNS.items():
            number = different
            seconds, failed = run(labels, number, options)
            most = min(SURVEY, int(_SHARE * number / seconds))
            if most > number and not task.quick:
                number = most
                seconds, failed = run(labels, number, options)
            each = seconds / number
            row = [what, str(number), f"{seconds:.1f}", f"{1e3 * each:.2f}"]
            rows.append([*row, f"{each * SURVEY / 60:.2f}", str(failed)])
            if failed > 0.01 * number:
                missed.append(f"{what}: {failed} of {number} failed")
    header = ["", "stamps", "seconds", "ms a stamp", f"minutes for {SURVEY}", "failed"]
    return header, rows, missed


def write(folder: Path, stamps: Sequence[Stamp], found: Sequence[Segmentation] | None) -> None:
    """Files of each plane."""
    folder.mkdir()
    for k, stamp in enumerate(stamps):
        header = fits.Header([("PIXSCALE", 0.396), ("MAGZERO", 22.5)])
        planes: dict[str, tuple[np.ndarray, fits.Header | None]] = {
            "image": (stamp.data, header),
            "sigma": (stamp.sigma, None),
            "psf": (stamp.psf.data, None),
        }
        if found is not None:
            planes["seg"] = (found[k].labels, fits.Header([("TARGET", 1)]))
        for plane, (data, own) in planes.items():
            fits.writeto(folder / f"{stamp.id}_{plane}.fits", data, own)


def linked(some: Path, folder: Path, number: int, different: int) -> None:
    """Files of `number` objects, each of `some` under several names."""
    folder.mkdir()
    files: dict[int, list[Path]] = {}
    for path in some.iterdir():
        files.setdefault(int(path.name[6:12]), []).append(path)
    for k in range(number):
        for path in files[k % different]:
            plane = path.stem.rpartition("_")[2]
            (folder / f"galaxy{k:06d}_{plane}.fits").hardlink_to(path)


SECTIONS: dict[str, Callable[[Task], Table]] = {
    "agreement": agreement,
    "fits": throughput,
    "networks": networks,
    "training": training,
    "deconvolution": deconvolution,
    "pipeline": pipeline,
}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sections", nargs="*", default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of the tables")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}: {', '.join(SECTIONS)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device: give --device cpu")
    task = Task(arguments.device, arguments.quick)
    name = torch.cuda.get_device_name() + ", " if task.device == "cuda" else ""
    arguments.out.mkdir(parents=True, exist_ok=True)
    began, bad = time.perf_counter(), []
    for section in arguments.sections:
        since = time.perf_counter()
        try:
            header, rows, missed = SECTIONS[section](task)
            text = markdown_table(header, rows)
            text += "".join(f"\n\nMissed: {line}." for line in missed)
            bad += missed
        except Exception:  # a section of its own: the others' figures are wanted all the same
            text = "Failed.\n\n```text\n" + traceback.format_exc() + "```"
            bad.append(f"{section} failed")
        took = time.perf_counter() - since
        text = f"{SECTIONS[section].__doc__} {name}{machine()}; {took:.0f} s.\n\n{text}\n"
        (arguments.out / f"{section}.md").write_text(text)
        print(f"## {section}\n\n{text}", flush=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} min, tables in {arguments.out}")
    for line in bad:
        print(line, file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
