"""Train a trial's UNet with the stages of scenes.training, sharing whatever it does not change."""

from dataclasses import dataclass
from pathlib import Path

import scenes
from dgq.storage.files import sha256_of, write_json
from scenes.studies.trial_settings import Trial
from scenes.training.__main__ import parser
from scenes.training.settings import Settings
from scenes.training.stages import run_stage

SHIPPED = {
    "clip": (scenes.CLIP_DIR, "model.safetensors"),
    "autoencoder": (scenes.PIPELINE_DIR / "vae", "diffusion_pytorch_model.safetensors"),
}
"""Models that trials do not retrain, each with its file of weights."""
PREPARED = ("clip", "autoencoder", "latents", "conditions")
"""The stages before the UNet's, in order."""
UNET = "diffusion"


@dataclass(frozen=True)
class Place:
    """Folders of the trials, and how they are trained.

    Args:
        root: folder of trials of any length.
        steps: steps of training; trials of different lengths are kept apart.
        processes: processes that train a UNet together.
    """

    root: Path
    steps: int
    processes: int

    def work(self, name: str) -> Path:
        """The folder that holds the stages of one trial."""
        return self.root / str(self.steps) / name

    @property
    def shared(self) -> Path:
        """The folder that holds the stages shared by all trials."""
        return self.root / "shared"


def prepare_shared(settings: Settings, place: Place) -> None:
    """Link the shipped text encoder and autoencoder; make all latents and text states with them."""
    for stage, (source, weights) in SHIPPED.items():
        folder = place.shared / stage
        folder.mkdir(parents=True, exist_ok=True)
        link_(folder / "model", source)
        # Latents and text states made with another model are refused.
        write_json(folder / "settings.json", {"shipped": sha256_of(source / weights)})
    for stage in ("latents", "conditions"):
        _run(stage, settings, place.shared, place)


def train(name: str, trial: Trial, settings: Settings, place: Place) -> Path:
    """Train or resume a trial, or do nothing if it is done; returns its folder."""
    work = place.work(name)
    work.mkdir(parents=True, exist_ok=True)
    for stage in PREPARED:
        if stage not in trial.anew:
            link_(work / stage, place.shared / stage)
            continue
        if (work / stage).is_symlink():
            (work / stage).unlink()
        _run(stage, settings, work, place)
    _run(UNET, settings, work, place)
    return work


def link_(link: Path, folder: Path) -> None:
    """Make a symbolic link to a folder, unless there is one."""
    if not link.is_symlink():
        link.symlink_to(folder.resolve(), target_is_directory=True)


def _run(stage: str, settings: Settings, work: Path, place: Place) -> None:
    options = [stage, "--work", str(work), "--processes", str(place.processes), "--resume"]
    run_stage(stage, settings, parser().parse_args(options))
