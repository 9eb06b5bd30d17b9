"""Each option of Lightning's Trainer is supported, or refused in one line before any work."""

import inspect
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger

from data.calibration import CalibrationData
from dgq.errors import DGQError
from dgq.recipes import RTN, Ours
from lit.cli import main
from lit.limits import parse_time
from lit.trainer_options import OPTIONS, check_trainer_options, identity_of_trainer
from tests.tiny_pipelines import LEARNING, fit_arguments

LEARNED, NEAREST = Ours(), RTN()

REFUSED: dict[str, list[Any]] = {
    "strategy": ["fsdp", "ddp_spawn", "ddp_find_unused_parameters_true", "deepspeed", "dp"],
    "num_nodes": [2, 0],
    "precision": [
        16,
        "16",
        "16-true",
        "16-mixed",
        "bf16-true",
        "64-true",
        64,
        "transformer-engine",
    ],
    "callbacks": [
        [SimpleNamespace(class_path="lightning.pytorch.callbacks.EarlyStopping")],
        [SimpleNamespace(class_path="lightning.pytorch.callbacks.StochasticWeightAveraging")],
        [SimpleNamespace(class_path="GradientAccumulationScheduler")],
        SimpleNamespace(class_path="Timer"),
        "ModelPruning",
    ],
    "max_epochs": [1, 0, -1],
    "min_epochs": [1],
    "max_steps": [-2],
    "min_steps": [1],
    "max_time": ["tomorrow", "1:2", {"weeks": "two"}, {"years": 1}, {"seconds": -1}],
    "log_every_n_steps": [-1],
    "limit_train_batches": [3, 1.0],
    "limit_val_batches": [0, 1.0],
    "limit_test_batches": [1],
    "limit_predict_batches": [0.5],
    "overfit_batches": [1, 0.5],
    "val_check_interval": [1],
    "check_val_every_n_epoch": [2, None],
    "num_sanity_val_steps": [2, -1],
    "enable_checkpointing": [False],
    "accumulate_grad_batches": [2],
    "gradient_clip_val": [1.0, 0],
    "gradient_clip_algorithm": ["norm"],
    "inference_mode": [False],
    "use_distributed_sampler": [False],
    "profiler": ["pytorch", SimpleNamespace(class_path="PyTorchProfiler")],
    "barebones": [True],
    "plugins": [["bitsandbytes"], SimpleNamespace(class_path="AsyncCheckpointIO")],
    "sync_batchnorm": [True],
    "reload_dataloaders_every_n_epochs": [1],
    "default_root_dir": ["elsewhere"],
    "model_registry": ["somewhere"],
}
"""Values that a calibration does not support."""

DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(Trainer.__init__).parameters.items()
    if name != "self"
}


def test_every_option_of_the_trainer_is_decided() -> None:
    assert set(OPTIONS) == set(DEFAULTS)
    assert {name for name, rule in OPTIONS.items() if rule is not None} == set(REFUSED)


def test_the_defaults_are_supported() -> None:
    check_trainer_options(DEFAULTS, resuming=True)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in REFUSED.items() for v in vs])
def test_what_would_change_the_calibration_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(DGQError, match=f"--trainer.{name}") as caught:
        check_trainer_options(DEFAULTS | {"logger": True, name: value}, resuming=False)
    assert "\n" not in str(caught.value)


def test_a_class_is_named_without_its_options() -> None:
    given = SimpleNamespace(class_path="lightning.DDPStrategy", init_args="many")
    with pytest.raises(DGQError, match=r"--trainer\.strategy lightning\.DDPStrategy is not"):
        check_trainer_options({"strategy": given}, resuming=False)


def test_an_option_that_a_later_lightning_adds_is_refused() -> None:
    with pytest.raises(DGQError, match=r"--trainer\.quantize_everything is not supported"):
        check_trainer_options({"quantize_everything": True}, resuming=False)


def test_a_trial_is_no_resumption_and_callbacks_watch_for_a_logger() -> None:
    with pytest.raises(DGQError, match="fast_dev_run writes no checkpoint"):
        check_trainer_options(DEFAULTS | {"fast_dev_run": 2}, resuming=True)
    watching = [SimpleNamespace(class_path="lightning.pytorch.callbacks.LearningRateMonitor")]
    with pytest.raises(DGQError, match=r"add --trainer\.logger"):
        check_trainer_options(DEFAULTS | {"callbacks": watching}, resuming=False)
    check_trainer_options(DEFAULTS | {"callbacks": watching, "logger": True}, resuming=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("01:02:03:04", timedelta(1, 2 * 3600 + 3 * 60 + 4)),
        ({"minutes": 2}, timedelta(minutes=2)),
        (timedelta(hours=1), timedelta(hours=1)),
    ],
)
def test_durations_are_read_as_lightning_reads_them(value: Any, expected: Any) -> None:
    assert parse_time(value) == expected


class WithoutPackage(CSVLogger):
    """A logger such as Lightning's for W&B, MLflow, Comet or TensorBoard."""

    def __init__(self, save_dir: str = "nowhere") -> None:
        raise ModuleNotFoundError("wandb is not installed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trainer.accumulate_grad_batches", "2"), "data.batch_size"),
        (("--trainer.precision", "bf16-true"), "expected 32-true or bf16-mixed"),
        (("--trainer.max_epochs", "2"), "it is the number of targets"),
        (("--trainer.limit_train_batches", "2"), "derived from model.recipe.learning"),
        (("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "e"), "Early"),
        (("--trainer.accelerator", "abacus"), "abacus"),
        (("--trainer.devices", "0"), "devices"),
        (("--trainer.fast_dev_run", "-1"), "fast_dev_run"),
        (("--seed_everything", "-5"), "seed_everything"),
        (("--trainer.logger", "CSVLogger"), "CSVLogger: the following arguments are required"),
        (("--trainer.logger", f"{__name__}.WithoutPackage"), "WithoutPackage: wandb is not inst"),
    ],
)
def test_the_command_line_refuses_them_before_any_work(
    options: tuple[str, ...],
    message: str,
    micro_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*fit_arguments(micro_folder, tmp_path), *options], CalibrationData) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["captions.txt"]
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def _nondeterministic_again() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.autograd.set_detect_anomaly(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.slow
@pytest.mark.usefixtures("_nondeterministic_again")
def test_what_only_watches_changes_no_byte(
    finished_work: Path, micro_folder: Path, tmp_path: Path
) -> None:
    """All supported options at once; a run that was stopped may be resumed with or without."""
    options = {
        "deterministic": "true",
        "benchmark": "true",
        "profiler": "simple",
        "detect_anomaly": "true",
        "enable_model_summary": "true",
        "enable_progress_bar": "false",
        "enable_autolog_hparams": "false",
        "log_every_n_steps": "1",
        "strategy": "ddp",
        "precision": "32",
        "logger": "CSVLogger",
        "logger.save_dir": str(tmp_path),
        "callbacks": "LearningRateMonitor",
    }
    arguments = [*fit_arguments(micro_folder, finished_work, "watched"), *LEARNING]
    more = [f"--trainer.{name}={value}" for name, value in options.items()]
    assert main([*arguments, *more, "--trainer.max_steps=12"], CalibrationData) == 3
    assert main([*arguments, "--ckpt_path=last", *more], CalibrationData) == 0
    for name in ("log.csv", "quantized/diffusion_pytorch_model.safetensors"):
        expected = (finished_work / "run" / name).read_bytes()
        assert (finished_work / "watched" / name).read_bytes() == expected
    assert list(tmp_path.rglob("metrics.csv"))


def trainer(device: str, precision: str = "32-true", world_size: int = 1) -> Any:
    root = SimpleNamespace(root_device=torch.device(device))
    return SimpleNamespace(strategy=root, precision=precision, world_size=world_size)


def test_what_determines_the_result_is_identity_and_the_rest_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = identity_of_trainer(trainer("cpu"), LEARNED)
    assert identity_of_trainer(trainer("cuda"), LEARNED) != base
    assert identity_of_trainer(trainer("cpu", "bf16-mixed"), LEARNED) != base
    assert identity_of_trainer(trainer("cpu", world_size=2), LEARNED) != base
    nearest = identity_of_trainer(trainer("cpu"), NEAREST)
    assert identity_of_trainer(trainer("cpu", world_size=2), NEAREST) == nearest
    on_gpu = identity_of_trainer(trainer("cuda"), LEARNED)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert identity_of_trainer(trainer("cpu"), LEARNED) == base
    assert identity_of_trainer(trainer("cuda"), LEARNED) != on_gpu
