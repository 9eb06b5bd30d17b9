"""Single targets of the benchmark's UNet, learned with any settings from the same inputs.

The network is rounded and learned with fixed settings (``PREFIX``). At every fifth target, other
settings can be tried first: this is the library's own calibration, held at one target.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.outlier_unet import build_calls, build_unet
from dgq import (
    ActivationSettings,
    LearningSettings,
    QuantizationSettings,
    WaitingSettings,
    WeightSettings,
)
from dgq.calibration import learning as learn
from dgq.calibration.calibrate import one_row
from dgq.calibration.calibrator import Calibrator
from dgq.calibration.learning_loop import learn_target_
from dgq.calibration.progress import CalibrationProgress
from dgq.calibration.samples import Sampling, samples_of_prompts
from dgq.recipes import Custom
from dgq.streams.waiting import waiting_places

# Fixed, so that inputs stay the same when the defaults change.
PREFIX = LearningSettings(
    iterations=200,
    polish_iterations=60,
    rounding_lr=0.2,
    scale_lr=0.02,
    polish_lr=0.005,
    penalty=0.05,
    warmup=0.2,
    activation_lr=0,
)
N_PROMPTS, N_HELD_OUT_PROMPTS = 16, 4
SAMPLING = Sampling(n_held_out=4 * N_HELD_OUT_PROMPTS, batch_size=8, micro_batch_size=16, seed=0)
EVERY = 5

Learn = Callable[[LearningSettings], tuple[float, float]]
"""Learns the current target from nearest rounding; returns held-out error and CPU seconds."""


def single_targets(keep: tuple[str, ...]) -> Iterator[tuple[str, Learn]]:
    """Yield the name of every fifth target in execution order, and a function that learns it.

    Call the function before asking for the next target. Layers that match a pattern in ``keep``
    are not targets.
    """
    bits = QuantizationSettings(WeightSettings(4), ActivationSettings(8, n_groups=8), keep=keep)
    calls = build_calls(N_PROMPTS + N_HELD_OUT_PROMPTS)
    samples = samples_of_prompts(calls, N_HELD_OUT_PROMPTS, SAMPLING)
    unet = build_unet().requires_grad_(False)
    calibrator = Calibrator(unet, Custom(bits, PREFIX), SAMPLING.batch_size)
    one = one_row(samples.micro_batches[0], calibrator.runtime.device)
    calibrator.quantize_(samples.timesteps, samples.latent_size, one, bits)
    with (
        tempfile.TemporaryDirectory(prefix="dgq-waiting-") as folder,
        CalibrationProgress(len(calibrator.targets), show=False) as bar,
    ):
        places = waiting_places(WaitingSettings(), unet, Path(folder))
        try:
            calibrator.start(samples.micro_batches, samples.held_out, places)
            for index, name in enumerate(calibrator.targets):
                calibrator.enter(name)
                learn_here = partial(learn_, calibrator, index, bar)
                if index % EVERY == 0:
                    yield name, learn_here
                learn_here(PREFIX)
                calibrator.propagate()
        finally:
            calibrator.close()


def learn_(
    calibrator: Calibrator, index: int, bar: CalibrationProgress, settings: LearningSettings
) -> tuple[float, float]:
    """Learn the current target with some settings; returns held-out error and CPU seconds."""
    target = calibrator.target
    calibrator.learning = settings
    learn.start_learning_(target)
    learn.set_soft_rounding_(target, settings.iterations > 0)
    optimizer, schedule = learn.make_optimizer(target.parts(), settings)
    started = time.process_time()
    learn_target_(calibrator, SAMPLING, index, optimizer, schedule, bar)
    seconds = time.process_time() - started
    calibrator.harden_()
    return calibrator.records[-1]["error"], seconds
