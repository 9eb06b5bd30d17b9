"""Runs of a small calibration that are killed at every kind of moment, and then resumed.

A plan is a table: a phase in which the process is killed, where samples wait, how many processes
there are, and on which file system the run is. The child kills itself at the n-th call of a
function, so that no run depends on timing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tests.tiny_pipelines import ROOT, fit_arguments, learning_options

CHILD = Path(__file__).with_name("child.py")
RESULTS = ("log.csv", "quantized/diffusion_pytorch_model.safetensors", "quantized/config.json")
LEARNING = learning_options(2, 1)

PHASES: dict[str, tuple[str, tuple[int, ...]]] = {
    "parsing": ("lit.cli.resolve_configs", (1,)),
    "loading": ("dgq.pipelines.loading.load_network", (1,)),
    "recording": ("dgq.calibration.recording.generators", (3,)),
    "writing recorded calls": ("dgq.storage.tensor_files.save_file", (3,)),
    "loading recorded calls": ("dgq.calibration.unet_calls.UNetCalls.load", (1,)),
    "measuring sensitivity": ("dgq.mixed_precision.sensitivity.Gathering.run", (1,)),
    "first capture": ("dgq.streams.paired_streams.PairedStreams.__init__", (1, 2)),
    "range search": ("dgq.calibration.learning.start_learning_", (2, 13)),
    "learning": ("lit.calibration.Calibration.training_step", (2, 20, 71)),
    "hardening": ("dgq.calibration.learning.harden_", (1, 12, 24)),
    "observing": ("dgq.calibration.calibrator.Calibrator.propagate", (3, 24)),
    "learning the network": ("lit.calibration.Calibration.training_step", (74,)),
    "hardening the network": ("dgq.calibration.network_learning.harden_network_", (1,)),
    "writing the log": ("lit.callbacks.RunFolder._write_log", (1, 9)),
    "sealing": ("dgq.storage.sealed_archive.seal_", (1, 2, 24, 25)),
    "flushing": ("dgq.storage.files.flush", (1, 6, 7, 44, 47)),
    "renaming": ("os.replace", (1, 3, 22, 52, 56)),
    "finishing": ("dgq.calibration.calibrator.Calibrator.finish", (1,)),
    "writing the model": ("dgq.storage.checkpoint.packed_state", (1,)),
    "writing the manifest": ("dgq.storage.model_files.dump_json", (1,)),
}
"""Name of a phase: a function, and at which of its calls the process is killed.

There are 24 blocks and the UNet as a whole, each with three steps of learning; the last of 25
checkpoints is the last of 56 files that are renamed. Prompts are recorded in three batches, the
first two of which are written to files of their own.
"""


@dataclass(frozen=True)
class Kill:
    """One row of the table.

    Args:
        phase: in which the process is killed.
        number: at which call of the phase's function.
        place: where samples wait.
        processes: of the calibration.
        rank: of the process that is killed.
        in_memory: the run is in memory and temporary files are on disk, or the other way round.
    """

    phase: str
    number: int
    place: str = "device"
    processes: int = 1
    rank: int = 0
    in_memory: bool = False


def plan(places: tuple[str, ...] = ("device", "disk")) -> list[Kill]:
    """Each phase with each place to wait, some with two processes; file systems mixed."""
    rows = [
        Kill(phase, number, place)
        for phase, (_, numbers) in PHASES.items()
        for number in numbers
        for place in places
    ]
    for phase in ("recording", "learning", "sealing", "renaming", "writing the model"):
        rows.append(Kill(phase, PHASES[phase][1][-1], "disk", 2))
    rows += [Kill("learning", 20, "disk", 2, rank=1), Kill("observing", 3, "device", 2, rank=1)]
    return [replace(row, in_memory=bool(number % 3)) for number, row in enumerate(rows)]


class Bench:
    """Runs the rows of a table.

    Args:
        pipeline: folder of the pipeline.
        on_disk: a folder there.
        in_memory: a folder of another file system.
    """

    def __init__(self, pipeline: Path, on_disk: Path, in_memory: Path) -> None:
        self.pipeline, self.folders = pipeline, (on_disk, in_memory)
        self.said = ""
        self._output = on_disk / "said.txt"
        self._server = subprocess.Popen(
            [sys.executable, str(CHILD), "serve"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process that others are forked from."""
        self._server.kill()
        self._server.wait()

    def folder(self, kill: Kill) -> Path:
        """Where a row's run is."""
        return self.folders[kill.in_memory]

    def fit(self, run: str, kill: Kill, *more: str, killed: bool = False) -> int:
        """Exit status of a calibration; a negative one is a signal."""
        work, temporary = self.folder(kill), self.folders[not kill.in_memory]
        arguments = [*fit_arguments(self.pipeline, work, run), *LEARNING]
        arguments += [f"--model.waiting.place={kill.place}", "--data.micro_batch_size=2"]
        arguments += ["--data.record_batch_size=3"]
        arguments += [f"--trainer.devices={kill.processes}", "--trainer.enable_progress_bar=false"]
        arguments += [f"--data.cache={work / run}-cache", *more]
        function, number = (PHASES[kill.phase][0], kill.number) if killed else ("", 0)
        program = [function, str(number), str(kill.rank), *arguments]
        start = self._fork if kill.processes == 1 else self._start
        status = start(program, str(temporary))
        self.said = self._output.read_text()
        return status

    def _fork(self, program: list[str], temporary: str) -> int:
        """In a process that has imported everything already: it takes a third of the time."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        job = {"program": program, "temporary": temporary, "output": str(self._output)}
        print(json.dumps(job), file=self._server.stdin, flush=True)
        return os.waitstatus_to_exitcode(int(self._server.stdout.readline()))

    def _start(self, program: list[str], temporary: str) -> int:
        """In a process of its own, which Lightning can start others like."""
        environment = {"OMP_NUM_THREADS": "1", "TMPDIR": temporary, "PYTHONPATH": str(ROOT)}
        with self._output.open("w") as output:
            return subprocess.run(
                [sys.executable, str(CHILD), *program],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=output,
                stderr=output,
            ).returncode

    def result(self, run: str, kill: Kill) -> dict[str, bytes]:
        """What a run has left."""
        return {name: (self.folder(kill) / run / name).read_bytes() for name in RESULTS}

    def leftovers(self, run: str, kill: Kill) -> list[str]:
        """Temporary files and folders that should be gone."""
        folders = (self.folder(kill) / run, self.folder(kill) / f"{run}-cache")
        found = (path for folder in folders for path in folder.rglob("*"))
        return [p.name for p in found if p.name.startswith((".", "waiting-"))]


def was_killed(status: int, kill: Kill) -> bool:
    """Whether a run ended as it should: by the kill, or since another process was killed."""
    return status == -signal.SIGKILL or (kill.rank > 0 and status == 2)
