"""Recipes from Hydra configs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from autofit_ml.errors import SettingsError, errors_of_file
from autofit_ml.extras import needs
from autofit_ml.presets import simulated_surveys
from autofit_ml.simulation.recipe import Recipe
from autofit_ml.user_yaml import parse_user_yaml, read_user_text

__all__ = ["compose_recipe", "config_folder", "list_recipes"]


def config_folder() -> Path:
    """The folder of Hydra configs that comes with the package."""
    return Path(__file__).resolve().parents[1] / "conf"


def list_recipes(
    group: Literal["data", "survey"] = "data", *, config_dir: str | Path | None = None
) -> dict[str, str]:
    """List what ``data=`` or ``survey=`` accepts: name -> title, those of `config_dir` first."""
    titles: dict[str, str] = {}
    for folder in (config_dir, config_folder()):
        root = Path(folder or "") / group
        for path in sorted(root.rglob("*.yaml")) if folder is not None else ():
            content = _config(path)
            name = str(path.relative_to(root).with_suffix(""))
            titles.setdefault(name, str(content.get("title", "")))
    if group == "survey":
        for name, band in simulated_surveys().items():
            titles.setdefault(name, str(band["title"]))
    return titles


def _config(path: Path) -> dict[str, Any]:
    """Content of a config file, checked: Hydra's own reader unfolds aliases."""
    with errors_of_file(path):
        content = parse_user_yaml(read_user_text(path, "config file")) or {}
    if not isinstance(content, dict):
        raise SettingsError("no settings in it", "write `name: value` lines", path)
    return content


def compose_recipe(
    overrides: Sequence[str] = (), *, config_dir: str | Path | None = None
) -> Recipe:
    """Compose ``conf/simulate.yaml`` with Hydra overrides and validate it.

    ``survey=`` takes the bands of `autofit_ml.presets`, which are registered with Hydra here.

    Parameters
    ----------
    overrides : sequence of str
        Hydra's override grammar: ``data=blends``, ``survey=hsc-i``, ``data.target.snr=[20,200]``,
        ``+survey.artefacts.cosmic_rays=5``.
    config_dir : path, optional
        A folder of your own configs that is searched first (the same layout as ``conf``).

    Returns
    -------
    Recipe

    Raises
    ------
    SettingsError
        Unknown config, wrong override, wrong value.
    """
    with needs("simulate", "a recipe"):
        from hydra import compose, initialize_config_dir
        from hydra.core.config_store import ConfigStore
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    # Values may be set whether or not the config file spells their default out.
    overrides = [
        f"++{item}" if "." in item.split("=")[0] and item[0] not in "+~" else item
        for item in overrides
    ]
    extra = []
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            problem = f"config folder {config_dir} does not exist"
            raise SettingsError(problem, "give an existing folder")
        for path in sorted(Path(config_dir).rglob("*.yaml")):
            _config(path)
        extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
    for name, band in simulated_surveys().items():
        ConfigStore.instance().store(name, dict(band), group="survey")
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = compose("simulate", overrides=[*extra, *overrides])
            mapping = OmegaConf.to_container(composed, resolve=True)
            wanted = mapping["data"].get("survey") if isinstance(mapping, dict) else None
            if wanted and not any(item.startswith("survey=") for item in overrides):
                composed = compose("simulate", overrides=[*extra, f"survey={wanted}", *overrides])
                mapping = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra adds its own list of options and its search path; the remedy has the list.
        text = " ".join(str(error).partition("Available options")[0].split())
        raise SettingsError(
            f"cannot compose the recipe: {text}",
            f"data is one of {', '.join(list_recipes('data'))}; "
            f"survey one of {', '.join(list_recipes('survey'))}",
        ) from error
    return Recipe.from_mapping(mapping)  # type: ignore[arg-type]
