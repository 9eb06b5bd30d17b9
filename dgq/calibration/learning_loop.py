"""Learn all targets in a plain loop, with the same batches, rates and steps as under Lightning."""

from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler

from dgq.calibration.calibrator import Calibrator
from dgq.calibration.learning import make_optimizer
from dgq.calibration.progress import CalibrationProgress
from dgq.calibration.row_batches import row_batches, seed_of_target
from dgq.calibration.samples import Sampling


def learn_(calibrator: Calibrator, sampling: Sampling, bar: CalibrationProgress) -> None:
    """Learn, harden and leave every target of a started calibration.

    Args:
        calibrator: calibrator whose samples are at the first target.
        sampling: size and seed of the batches.
        bar: progress bar to update.
    """
    recipe = calibrator.recipe
    optimizer, schedule = make_optimizer(
        calibrator.unet.modules(), recipe.learning, recipe.network, calibrator.n_blocks
    )
    for index, name in enumerate(calibrator.targets):
        bar.enter(name, calibrator.records)
        calibrator.enter(name)
        learn_target_(calibrator, sampling, index, optimizer, schedule, bar)
        calibrator.harden_()
        optimizer.state.clear()
        calibrator.propagate()
        bar.show_finished(index + 1)


def learn_target_(
    calibrator: Calibrator,
    sampling: Sampling,
    index: int,
    optimizer: Adam,
    schedule: LRScheduler,
    bar: CalibrationProgress,
) -> None:
    """All steps of learning at one target."""
    n_iterations = calibrator.learning.total_iterations
    seed = seed_of_target(sampling.seed, index)
    batches = row_batches(calibrator.samples.n_rows, sampling.batch_size, seed)
    for iteration in range(n_iterations):
        calibrator.begin_step(iteration)
        with calibrator.phase("learning"):
            if calibrator.learns(iteration):
                loss = calibrator.loss(next(batches), iteration)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
        bar.show_finished(index + (iteration + 1) / n_iterations)
