"""The stages that train the embedded models: what each needs, its settings, and how it runs."""

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenes.training import (
    autoencoder,
    clip,
    conditions,
    diffusion,
    distillation,
    latents,
    measuring_clip,
)
from scenes.training.checkpoints import CHECKPOINT, DONE, refuse_existing
from scenes.training.curves import draw_curves
from scenes.training.export import export
from scenes.training.measure import measure
from scenes.training.pipelines import VELOCITY, euler, pndm, stable_diffusion, stable_diffusion_xl
from scenes.training.settings import Clip, Diffusion, Fit, Settings

_SETTINGS = "settings.json"
_MODEL = "model"
_WORK = (_MODEL, DONE, CHECKPOINT)
"""Files of a folder whose stage has started; any of them counts."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        run: runs the stage, with the settings and the command's options.
        settings: what its result depends on, besides the stages it needs; None if it has none.
        needs: stages whose results it reads.
        result: its result in its folder, which exists once the stage is complete.
    """

    run: Callable[[Settings, argparse.Namespace], None]
    settings: Callable[[Settings], Any] | None
    needs: tuple[str, ...] = ()
    result: str = DONE


def run_stage(name: str, settings: Settings, options: argparse.Namespace) -> None:
    """Run one stage.

    Raises:
        FileNotFoundError: a stage that it needs has not been run.
        FileExistsError: its folder holds work done with other settings.
    """
    stage = STAGES[name]
    for needed in stage.needs:
        if not (options.work / needed / STAGES[needed].result).exists():
            raise FileNotFoundError(
                f"{name} needs {options.work / needed}, which is not there: run "
                f"`python -m scenes.training {needed}` first"
            )
    if stage.settings is not None:
        part = {"image_size": settings.image_size} | dataclasses.asdict(stage.settings(settings))
        # Including those of earlier stages, so that later ones notice if they were made anew.
        after = {needed: _read_settings(options.work / needed) for needed in stage.needs}
        _remember(options.work / name, part | {"after": after})
    stage.run(settings, options)


def _read_settings(folder: Path) -> Any:
    path = folder / _SETTINGS
    return json.loads(path.read_text()) if path.is_file() else None


def _remember(folder: Path, part: dict[str, Any]) -> None:
    """Record the settings of a stage in its folder, or compare them with those recorded there."""
    text, path = json.dumps(part, indent=2) + "\n", folder / _SETTINGS
    known = path.read_text() if path.exists() else ""
    if known != text and any((folder / name).exists() for name in _WORK):
        raise FileExistsError(
            f"{folder} was made with other settings (see {path}): remove it, or choose another "
            "folder with --work"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _clip(settings: Settings, options: argparse.Namespace) -> None:
    _train_clip("clip", settings.clip, settings, options)


def _xl_clip(settings: Settings, options: argparse.Namespace) -> None:
    _train_clip("xl-clip", settings.xl.clip, settings, options)


def _train_clip(stage: str, part: Clip, settings: Settings, options: argparse.Namespace) -> None:
    folder = options.work / stage
    clip.train(part, settings.image_size, folder, options.device, options.resume)


def _measuring_clip(settings: Settings, options: argparse.Namespace) -> None:
    source, folder = options.work / "clip" / "model", options.work / "measuring-clip"
    measuring_clip.train(
        settings.measuring_clip,
        settings.image_size,
        source,
        folder,
        options.device,
        options.resume,
    )


def _autoencoder(settings: Settings, options: argparse.Namespace) -> None:
    folder = options.work / "autoencoder"
    autoencoder.train(
        settings.autoencoder, settings.image_size, folder, options.device, options.resume
    )


def _latents(settings: Settings, options: argparse.Namespace) -> None:
    model, folder = options.work / "autoencoder" / "model", options.work / "latents"
    latents.prepare(settings.latents, settings.image_size, model, folder, options.device)


def _conditions(settings: Settings, options: argparse.Namespace) -> None:
    pipeline = stable_diffusion(options.work, None, pndm()).to(options.device)
    captions = latents.training_captions(settings.latents)
    conditions.prepare(pipeline, captions, options.work / "conditions")


def _xl_conditions(settings: Settings, options: argparse.Namespace) -> None:
    pipeline = stable_diffusion_xl(options.work, None, euler()).to(options.device)
    captions = latents.training_captions(settings.latents)
    conditions.prepare(pipeline, captions, options.work / "xl-conditions")


def _diffusion(settings: Settings, options: argparse.Namespace) -> None:
    _train_unet("diffusion", "conditions", settings.diffusion, options)


def _xl(settings: Settings, options: argparse.Namespace) -> None:
    if settings.xl.diffusion.prediction_type != VELOCITY:
        raise ValueError("the sibling's samplers and its distillation know velocities only")
    _train_unet("xl", "xl-conditions", settings.xl.diffusion, options)


def _train_unet(stage: str, texts: str, part: Diffusion, options: argparse.Namespace) -> None:
    inputs = (part, options.work / "latents", options.work / texts)
    _train_shared(stage, diffusion.train, part.fit, inputs, options)


def _few_step(settings: Settings, options: argparse.Namespace) -> None:
    part, work = settings.xl.distillation, options.work
    folders = (work / "latents", work / "xl-conditions", work / "xl")
    inputs = (part, settings.xl.diffusion.unet, *folders)
    _train_shared("few-step", distillation.train, part.fit, inputs, options)


def _train_shared(
    stage: str,
    train: Callable[..., None],
    fit: Fit,
    inputs: tuple[Any, ...],
    options: argparse.Namespace,
) -> None:
    """Train in as many processes as the options request; they share each batch."""
    folder = options.work / stage
    # Checked here, since an error in one of several processes would end in a traceback.
    refuse_existing(folder, options.resume)
    n = int(options.processes) if options.device == "cpu" else 1
    if fit.batch_size % n:
        raise ValueError(f"--processes {n} cannot share batches of {fit.batch_size} equally")
    train(*inputs, folder, options.device, options.resume, n)


def _export(settings: Settings, options: argparse.Namespace) -> None:
    assets = _assets(options)
    names = ", ".join(export(settings, options.work, assets))
    print(f"{assets}: {names}")


def _measure(settings: Settings, options: argparse.Namespace) -> None:
    assets = _assets(options)
    print(measure(assets, options.n, options.guidance_scale, options.device))
    draw_curves(assets)


def _assets(options: argparse.Namespace) -> Path:
    """The folder to export to, by default not the shipped one: tests and docs depend on that."""
    chosen: Path = options.assets or options.work / "assets"
    return chosen


STAGES: dict[str, Stage] = {
    "clip": Stage(_clip, lambda all_: all_.clip, result=_MODEL),
    "measuring-clip": Stage(_measuring_clip, lambda all_: all_.measuring_clip, ("clip",), _MODEL),
    "autoencoder": Stage(_autoencoder, lambda all_: all_.autoencoder, result=_MODEL),
    "latents": Stage(_latents, lambda all_: all_.latents, ("autoencoder",)),
    "conditions": Stage(_conditions, lambda all_: all_.latents, ("clip", "autoencoder")),
    "diffusion": Stage(_diffusion, lambda all_: all_.diffusion, ("latents", "conditions")),
    "xl-clip": Stage(_xl_clip, lambda all_: all_.xl.clip, result=_MODEL),
    "xl-conditions": Stage(
        _xl_conditions, lambda all_: all_.latents, ("clip", "xl-clip", "autoencoder")
    ),
    "xl": Stage(_xl, lambda all_: all_.xl.diffusion, ("latents", "xl-conditions")),
    "few-step": Stage(
        _few_step, lambda all_: all_.xl.distillation, ("xl", "latents", "xl-conditions")
    ),
    "export": Stage(_export, None, ("measuring-clip", "autoencoder", "diffusion")),
    "measure": Stage(_measure, None),
}
"""Stages by name, in the order in which they run."""
