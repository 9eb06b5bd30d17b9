"""Train a trial's UNet with the stages of scenes.training, sharing whatever it does not change."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import scenes
from scenes.training.__main__ import parser
from scenes.training.arrays import is_done
from scenes.training.settings import Settings
from scenes.training.stages import run_stage
from trials.variants import Variant

SHIPPED = {"clip": scenes.CLIP_DIR, "autoencoder": scenes.PIPELINE_DIR / "vae"}
"""Models that trials do not train anew."""
PREPARED = ("clip", "autoencoder", "latents", "conditions")
"""The stages before the UNet's, in their order."""
UNET = "diffusion"
LAST_LINES = 10
"""Of the log, whose mean is the final error."""


@dataclass(frozen=True)
class Place:
    """Folders of the trials, and how they are trained.

    Args:
        root: of all trials.
        processes: that train a UNet together.
    """

    root: Path
    processes: int

    def work(self, name: str) -> Path:
        """The stages' folders of one trial."""
        return self.root / name

    @property
    def shared(self) -> Path:
        """The stages' folders of all trials."""
        return self.root / "shared"


def prepare_shared(settings: Settings, place: Place) -> None:
    """The shipped text encoder and autoencoder, and all latents and text states made with them."""
    for stage, source in SHIPPED.items():
        model = place.shared / stage / "model"
        if not model.is_dir():
            beside = model.with_name(".model")
            shutil.copytree(source, beside, dirs_exist_ok=True)
            beside.rename(model)
    for stage in ("latents", "conditions"):
        _run(stage, settings, place.shared, place)


def train(name: str, variant: Variant, settings: Settings, place: Place) -> Path:
    """Train a trial, or go on with it, or do nothing if that is done; returns its folder."""
    work = place.work(name)
    work.mkdir(parents=True, exist_ok=True)
    for stage in PREPARED:
        if stage in variant.anew:
            _run(stage, settings, work, place)
        elif not (work / stage).is_symlink():
            (work / stage).symlink_to((place.shared / stage).resolve(), target_is_directory=True)
    _run(UNET, settings, work, place)
    return work


def _run(stage: str, settings: Settings, work: Path, place: Place) -> None:
    options = [stage, "--work", str(work), "--processes", str(place.processes), "--resume"]
    run_stage(stage, settings, parser().parse_args(options))


def is_trained(work: Path) -> bool:
    """Whether the UNet in a trial's folder is complete."""
    return is_done(work / UNET)


def last_error(work: Path) -> float:
    """Mean squared error of the UNet's last steps."""
    lines = (work / UNET / "log.jsonl").read_text().splitlines()[-LAST_LINES:]
    errors = [json.loads(line)["mse"] for line in lines]
    return float(sum(errors) / len(errors))


def seconds(work: Path) -> float:
    """How long the UNet was trained."""
    return float(json.loads((work / UNET / "log.jsonl").read_text().splitlines()[-1])["seconds"])
