"""The command line: rows and models to measure, and files for the figures."""

import argparse
import shlex
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.inference.children import CHILD, SUBJECTS, answer
from benchmarks.inference.device import is_gpu
from benchmarks.inference.request import Options
from benchmarks.inference.rows import GPU_ROWS, INSTALL, ROWS, USUAL_ROWS, available, entrants
from benchmarks.inference.run import Run
from benchmarks.inference.subjects import Subject
from dgq.command_line.console import quieten_libraries
from dgq.command_line.ending import exit_code
from dgq.errors import DGQError, SettingsError
from dgq.settings import check_positive

COMMAND = "python benchmarks/inference"
USUAL_SUBJECTS = ("sd14", "embedded")
GPU_BATCHES = (2, 16)
POSITIVE = ("repeats", "calls", "jobs", "threads", "captions", "calibration_calls")


def main(argv: Sequence[str]) -> int:
    """Measure and write; the exit code is 2 after one line about bad input, 1 if a row failed."""
    if argv[:1] == [CHILD]:
        quieten_libraries()
        warnings.filterwarnings("ignore")
        answer(*map(Path, argv[1:]))
        return 0
    arguments = parse(argv)

    def work() -> int:
        run = plan(arguments, f"{COMMAND} {shlex.join(argv)}".strip())
        cache = Path(arguments.cache)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            run.run(Path(folder))
        run.report(Console())
        return 1 if run.failures else 0

    return exit_code(work, "rows that were finished are in the file of --json, if there is one")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Seconds, memory and file size of a UNet in torch, quantized by dgq, and in "
        "OpenVINO; for the embedded model also the SQNR of its output. Each row runs in its own "
        "process, and the rows take turns over the repeats.",
        epilog="rows: "
        + "; ".join(f"{name} ({row.title})" for name, row in ROWS.items())
        + f". Those of OpenVINO, NNCF and ONNX need an extra: {INSTALL}",
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--quick", action="store_true", help="measure only the embedded model, in minutes"
    )
    which.add_argument(
        "--models",
        nargs="+",
        choices=list(SUBJECTS),
        default=list(USUAL_SUBJECTS),
        metavar="MODEL",
        help="UNets: sd14 (Stable Diffusion 1.4's size, random weights, 64x64 latents), sdxl "
        "(SDXL's, 128x128 latents, 20 GiB of memory), tiny (to rehearse) and embedded (default: "
        "sd14 and embedded)",
    )
    add(
        "--rows",
        nargs="+",
        choices=list(ROWS),
        metavar="ROW",
        help="ways to run them, see below (default: all that are installed)",
    )
    add("--device", default="cpu", help="device that computes, cpu or cuda (default: cpu)")
    add(
        "--batch",
        type=int,
        nargs="+",
        metavar="N",
        help="rows of latents in a call; guidance needs two for each picture (default: 2 1 for "
        "sd14, 2 1 32 for embedded; on a GPU 2 16)",
    )
    add(
        "--ckpt",
        nargs="+",
        default=["outputs/w4a8"],
        metavar="RUN",
        help="finished runs of the embedded model, or folders of quantized models; each has its "
        "own rows (default: outputs/w4a8)",
    )
    add(
        "--activation-bits",
        type=int,
        default=8,
        choices=range(2, 9),
        metavar="N",
        help="bits of the activations of sd14, sdxl and tiny, 2 to 8 (default: 8)",
    )
    add("--repeats", type=int, default=3, help="processes of each row (default: 3)")
    add(
        "--calls",
        type=int,
        default=2,
        help="timed calls in each process and batch size, at least, after two untimed (default: 2)",
    )
    add(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="rows that load and compile side by side, each batch size in its own process; they "
        "are timed one at a time, with the others paused (default: 1)",
    )
    add("--threads", type=int, default=2, help="threads of every library (default: 2)")
    add(
        "--captions",
        type=int,
        default=16,
        help="held-out captions; the SQNR is measured on all of their UNet calls (default: 16)",
    )
    add(
        "--calibration-calls",
        type=int,
        default=208,
        metavar="N",
        help="recorded calls that NNCF calibrates the embedded model on (default: 208)",
    )
    add(
        "--cache",
        default="outputs/inference",
        metavar="FOLDER",
        help="folder for what is made once: random weights, recorded calls, OpenVINO models "
        "(default: outputs/inference)",
    )
    add("--turns", default="", help=argparse.SUPPRESS)  # with other commands' processes
    add("--json", type=Path, metavar="FILE", help="file for all figures; written after every row")
    add("--markdown", type=Path, metavar="FILE", help="file for tables to paste into docs")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.models = ["embedded"]
    if arguments.rows is None:
        arguments.rows = list(GPU_ROWS if is_gpu(arguments.device) else USUAL_ROWS)
    return arguments


def default_batches(device: str, subject: Subject) -> tuple[int, ...]:
    """Default batch sizes."""
    return GPU_BATCHES if is_gpu(device) else subject.default_batches


def plan(arguments: argparse.Namespace, command: str) -> Run:
    """The run that was requested.

    Raises:
        DGQError: before anything is done, if a number is too small or a model is missing.
    """
    for name in POSITIVE:
        check_positive("--" + name.replace("_", "-"), getattr(arguments, name))
    for batch in arguments.batch or ():
        check_positive("--batch", batch)
    for name in ("rows", "models", "ckpt"):
        if len(set(getattr(arguments, name))) < len(getattr(arguments, name)):
            raise SettingsError(f"--{name} names something twice")
    if is_gpu(arguments.device) and not torch.cuda.is_available():
        raise DGQError(f"--device {arguments.device}: torch finds no GPU here")
    rows, notes = available(arguments.rows)
    if not rows:
        raise DGQError(f"no row can run here: {notes[0]}")
    needs_ckpt = any(ROWS[name].of_ckpt for name in rows)
    options = Options(
        cache=arguments.cache,
        ckpts=tuple(arguments.ckpt) if needs_ckpt and "embedded" in arguments.models else (),
        threads=arguments.threads,
        calls=arguments.calls,
        captions=arguments.captions,
        calibration_calls=arguments.calibration_calls,
        device=arguments.device,
        activation_bits=arguments.activation_bits,
        turns=arguments.turns,
    )
    subjects: dict[str, Subject] = {name: SUBJECTS[name](options) for name in arguments.models}
    chosen = [e for name, one in subjects.items() for e in entrants(name, rows, one.ckpts())]
    batches = {
        name: tuple(dict.fromkeys(arguments.batch or default_batches(arguments.device, subject)))
        for name, subject in subjects.items()
    }
    files = (arguments.json, arguments.markdown)
    counts = (arguments.repeats, arguments.jobs)
    return Run(command, options, subjects, chosen, batches, counts, notes, files)
