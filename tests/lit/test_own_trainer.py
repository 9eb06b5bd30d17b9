"""LightningModule and DataModule with a Trainer that was made in Python."""

from pathlib import Path
from typing import Any

import pytest
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LambdaCallback, ModelCheckpoint

from data.calibration import CalibrationData
from dgq.errors import DGQError
from dgq.recipes import RTN, Ours, Recipe
from dgq.settings import LearningSettings
from dgq.storage.checkpoint import save_quantized
from dgq.storage.manifest import GenerationSettings
from lit.calibration import Calibration

OURS = Ours(learning=LearningSettings(iterations=3, polish_iterations=2), range_method="minmax")
MODEL = "diffusion_pytorch_model.safetensors"


def fit(
    work: Path,
    pipeline: Path,
    *callbacks: Callback,
    recipe: Recipe = OURS,
    **options: Any,
) -> Calibration:
    """A calibration like that of ``finished_work``, in Python."""
    module = Calibration(str(pipeline), recipe)
    data = CalibrationData(
        str(pipeline),
        GenerationSettings(2, 3.0),
        work / "captions.txt",
        n_prompts=3,
        batch_size=4,
        cache=work / "cache",
    )
    ckpt_path = options.pop("ckpt_path", None)
    trainer = Trainer(
        **{"accelerator": "cpu", "devices": 1, "logger": False, "enable_model_summary": False},
        max_epochs=module.n_targets,
        limit_train_batches=module.n_iterations,
        enable_progress_bar=False,
        default_root_dir=work / "own",
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


def test_it_makes_the_same_model_also_when_resumed(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    """From any of its checkpoints, with the same settings alone."""
    expected = (finished_work / "run" / "quantized" / MODEL).read_bytes()
    every = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=20, save_top_k=-1)
    module = fit(finished_work, micro_folder, every)
    save_quantized(module.unet, tmp_path / "whole", module.manifest())
    assert (tmp_path / "whole" / MODEL).read_bytes() == expected
    (file,) = tmp_path.glob("*.ckpt")
    resumed = fit(finished_work, micro_folder, enable_checkpointing=False, ckpt_path=file)
    save_quantized(resumed.unet, tmp_path / "resumed", resumed.manifest())
    assert (tmp_path / "resumed" / MODEL).read_bytes() == expected
    with pytest.raises(DGQError, match="precision: 32-true then, bf16-mixed now"):
        fit(finished_work, micro_folder, precision="bf16-mixed", ckpt_path=file)


def save(trainer: Trainer, *_: Any) -> None:
    trainer.save_checkpoint("never-written.ckpt")


WITHIN = {
    "batch": LambdaCallback(on_train_batch_end=save),
    "start": LambdaCallback(on_train_epoch_start=save),
    "before hardening": LambdaCallback(on_train_epoch_end=save),
}


@pytest.mark.parametrize("moment", WITHIN)
def test_a_checkpoint_within_a_target_is_refused(
    moment: str, finished_work: Path, micro_folder: Path
) -> None:
    with pytest.raises(DGQError, match="a checkpoint holds whole targets"):
        fit(finished_work, micro_folder, WITHIN[moment], recipe=RTN(), enable_checkpointing=False)
    assert not Path("never-written.ckpt").exists()


def test_a_checkpoint_is_no_module(tmp_path: Path) -> None:
    kind: type[LightningModule] = Calibration
    with pytest.raises(DGQError, match=r"dgq\.load_quantized_unet"):
        kind.load_from_checkpoint(tmp_path / "last.ckpt")
