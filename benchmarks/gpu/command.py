"""The command line: runs steps side by side until the time is up."""

import argparse
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Any

from benchmarks.gpu.attention import measure_attention
from benchmarks.gpu.exactness import check
from benchmarks.gpu.gates import check_gates
from benchmarks.gpu.layers import measure_layers
from benchmarks.gpu.shapes import measure_shapes
from benchmarks.gpu.smoke import LEAST_DB, check_smallest
from benchmarks.gpu.steps import BENCHMARKS, GATES, SECONDS, TURNS, UNPACKING, Plan, Step, python
from benchmarks.gpu.unpacking import check_unpacking
from benchmarks.inference.turns import Turns
from dgq.command_line.ending import exit_code
from dgq.errors import DGQError
from dgq.settings import check_positive
from dgq.storage.checkpoint import find_model
from dgq.storage.files import check_writable, write_json

STEPS_AT_ONCE = 5

Check = Callable[[str, int], dict[str, Any]]
"""A check of exactness, given a device and a number of channels."""

SUMMARY = "steps.json"
LEAST_SECONDS = 20
"""A step is not started with fewer seconds left."""


def main(argv: Sequence[str]) -> int:
    """Run the steps; the exit code is 2 after one line about bad input, 1 if a step failed."""
    arguments = parse(argv)
    if arguments.child:
        child(arguments)
        return 0
    return exit_code(lambda: measure(arguments), f"{SUMMARY} has the steps that were finished")


def measure(arguments: argparse.Namespace) -> int:
    """Run the steps; returns 1 if one failed.

    Raises:
        DGQError: for bad input, before anything is started.
    """
    check_positive("--jobs", arguments.jobs)
    check_positive("--seconds", arguments.seconds)
    if arguments.ckpt:
        find_model(Path(arguments.ckpt))
    check_writable(arguments.out, "the folder for the figures,")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dgq-gpu-") as folder:
        scratch = arguments.scratch or Path(folder)
        plan = Plan(arguments.out.resolve(), scratch, arguments.rehearse, arguments.ckpt)
        steps = plan.steps()
        names = arguments.steps or list(steps)
        unknown = [name for name in names if name not in steps]
        if unknown:
            raise DGQError(f"--steps: no step {unknown[0]}, expected {', '.join(steps)}")
        chosen = {name: steps[name] for name in names}
        return run(plan, chosen, arguments.seconds, arguments.jobs)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu",
        description="Exactness, speed and calibration on a GPU, in eight minutes.",
    )
    add = parser.add_argument
    add("out", type=Path, help="folder for the figures")
    add("--rehearse", action="store_true", help="run on a CPU, with tiny sizes")
    add("--steps", nargs="+", metavar="NAME", help="steps to run, in this order (default: all)")
    add(
        "--jobs",
        type=int,
        default=STEPS_AT_ONCE,
        metavar="N",
        help="steps that prepare side by side; they measure times one at a time, with the others "
        f"paused (default: {STEPS_AT_ONCE})",
    )
    add("--seconds", type=int, default=SECONDS, help=f"time for all steps (default: {SECONDS})")
    add("--ckpt", default="", help="a quantized embedded model, for its SQNR (default: none)")
    add("--scratch", type=Path, help="folder for intermediate files (default: a new one)")
    add("--child", default="", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def run(plan: Plan, steps: dict[str, Step], seconds: float, jobs: int = 1) -> int:
    """Run all steps for which there is time; the outcome of each is written at once."""
    end = time.monotonic() + seconds
    became: dict[str, Any] = {}
    writing, hopeless = Lock(), Event()

    def one(name: str) -> None:
        started = time.monotonic()
        if hopeless.is_set():
            result: dict[str, Any] = {"outcome": "not begun: a required step has failed"}
        elif end - started < LEAST_SECONDS:
            result = {"outcome": "no time was left"}
        else:
            outcome = run_step(plan, name, steps[name], min(end - started, steps[name].seconds))
            result = {"outcome": outcome, "seconds": round(time.monotonic() - started, 1)}
            if steps[name].is_required and outcome != "done":
                hopeless.set()  # saves the time of the other steps for another try
                plan.turns.end()
        print(f"{name}: {result}", flush=True)
        with writing:
            became[name] = result
            write_json(plan.out / SUMMARY, {n: became[n] for n in steps if n in became})

    with ThreadPoolExecutor(jobs) as pool:
        try:
            list(pool.map(one, steps))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            plan.turns.end()
    return 0 if all(one["outcome"] == "done" for one in became.values()) else 1


def run_step(plan: Plan, name: str, step: Step, seconds: float) -> str:
    """``done``, or what went wrong; the commands' output is in a file beside the figures."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]),
        "TORCHINDUCTOR_CACHE_DIR": str(plan.scratch / "inductor"),
    }
    environment.pop("TRITON_INTERPRET", None)
    if step.interprets:
        environment["TRITON_INTERPRET"] = "1"
    end = time.monotonic() + seconds
    with (plan.out / f"{name}.log").open("w") as said:
        children = [
            subprocess.Popen(
                python(command),
                env=environment,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            for command in step.commands
        ]
        for one in children:
            plan.turns.join(one.pid)
        try:
            codes = [c.wait(max(0.1, end - time.monotonic())) for c in children]
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
        finally:
            for one in children:
                plan.turns.leave(one.pid)
                stop(one)
                plan.turns.wake()
    return "done" if not any(codes) else f"exit codes {codes}, see {name}.log"


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGCONT)  # a paused process receives SIGTERM only now
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def child(arguments: argparse.Namespace) -> None:
    """Do the work of one of this command's own children."""
    kind, _, name = arguments.child.partition(":")
    rehearse = arguments.rehearse
    device = "cpu" if rehearse else "cuda"
    turns = Turns(arguments.scratch / TURNS)
    cache = arguments.scratch / "inference"
    if kind == "smoke":
        figures = check_smallest(device, cache)
        write_json(arguments.out / "smoke.json", figures)
        if not all(db >= LEAST_DB for db in figures.values()):
            raise SystemExit(1)
        return
    if kind == "shapes":
        for figures in measure_shapes(device, turns, rehearse):
            write_json(arguments.out / "shapes.json", figures)
        return
    if kind == "attention":
        for figures in measure_attention(device, turns, rehearse):
            write_json(arguments.out / "attention.json", figures)
        return
    if kind == "exact":
        channels = 32 if rehearse else 320
        others: dict[str, Check] = {GATES: check_gates, UNPACKING: check_unpacking}
        figures = (others.get(name) or partial(check, name))(device, channels)
        write_json(arguments.out / f"exact-{name}.json", figures)
        if not figures["exact"]:
            raise SystemExit(1)
        return
    model, batches, size = ("tiny", [1], 64) if rehearse else ("sd14", [2, 16], 8192)
    for figures in measure_layers(model, device, batches, cache, size, turns):
        write_json(arguments.out / "layers.json", figures)
