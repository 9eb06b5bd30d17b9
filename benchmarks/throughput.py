"""How fast evaluate.py generates images, against a bare loop over the pipeline, same batches.

    python benchmarks/throughput.py

Both take turns batch by batch in one process, so that a busy machine slows them alike. Images of
evaluate.py are checked, encoded and written meanwhile; those of the bare loop are dropped.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import scenes
from dgq.command_line.console import quieten_libraries
from dgq.pipelines.loading import load_pipeline
from dgq.storage.checkpoint import GenerationSettings
from evaluation.images.image_generator import ImageGenerator, plan_batches
from evaluation.images.image_set import ImageSet
from evaluation.images.sampling import image_generator
from evaluation.images.store import ImageStore

GENERATION = GenerationSettings(scenes.NUM_INFERENCE_STEPS, scenes.GUIDANCE_SCALE)


@torch.no_grad()
def main() -> None:
    """Print seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--num-images", type=int, default=64, help="images (default: 64)")
    parser.add_argument("--batch-size", type=int, default=16, help="batch size (default: 16)")
    parser.add_argument(
        "--recorded", type=int, default=0, help="images whose UNet calls are kept (default: 0)"
    )
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    arguments = parser.parse_args()
    quieten_libraries()
    pipeline = load_pipeline("scenes").to(arguments.device)
    prompts = scenes.sample_captions(arguments.num_images, 0, "test")
    bare, ours = Stopwatch(), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        store = ImageStore(Path(folder), "full_precision", {}, prompts)
        store.open_()
        sets = [ImageSet(0, "full precision", store, 0, arguments.recorded)]
        with ImageGenerator(pipeline, lambda _: pipeline.unet, sets, GENERATION) as generator:
            for batch in plan_batches(sets, arguments.batch_size):
                chosen = [prompts[index] for index in batch.indices]
                noise = [image_generator(0, index) for index in batch.indices]
                settings = {
                    "num_inference_steps": GENERATION.num_inference_steps,
                    "guidance_scale": GENERATION.guidance_scale,
                    "generator": noise,
                }
                bare.time(partial(pipeline, chosen, **settings))
                ours.time(partial(generator.draw, batch))
            ours.time(generator.finish)
    for name, watch in (("bare loop", bare), ("evaluate.py", ours)):
        speed = arguments.num_images / watch.wall
        print(f"{name}: {speed:.2f} images/s, {watch.wall:.1f} s, {watch.cpu:.1f} CPU s")
    print(f"ratio of CPU seconds {ours.cpu / bare.cpu:.3f}, of time {ours.wall / bare.wall:.3f}")


class Stopwatch:
    """Adds up wall and CPU seconds."""

    def __init__(self) -> None:
        self.wall = 0.0
        self.cpu = 0.0

    def time(self, work: Callable[[], object]) -> None:
        """Do some work and add its time."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


if __name__ == "__main__":
    main()
