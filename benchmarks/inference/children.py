"""Child processes of this command: their requests and their answers."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference.embedded import Embedded
from benchmarks.inference.full_size import FullSize, FullSizeXL, Tiny
from benchmarks.inference.measure import measure
from benchmarks.inference.request import Options, Request
from benchmarks.inference.subjects import Subject
from benchmarks.inference.turns import Turns
from dgq.errors import DGQError
from dgq.storage.files import write_json

ROOT = Path(__file__).parents[2]
CHILD = "child"
"""The hidden subcommand; the files of a request and its answer follow."""

SUBJECTS: dict[str, type[Subject]] = {
    kind.name: kind for kind in (FullSize, FullSizeXL, Tiny, Embedded)
}
MAX_SECONDS = 3600
RUNNING: set["subprocess.Popen[str]"] = set()
"""Running children of all threads."""


def ask(request: Request, options: Options, work: Path) -> dict[str, Any]:
    """The answer of a child.

    Args:
        request: request to the child.
        options: of the command.
        work: folder for compiled code, kept by ``torch.compile`` until the command ends.

    Raises:
        DGQError: if it fails, with the last line of its output.
    """
    with tempfile.TemporaryDirectory(dir=work) as folder:
        question, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        write_json(question, {"request": asdict(request), "options": asdict(options)})
        command = [sys.executable, str(Path(__file__).parent), CHILD, str(question), str(answer)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": str(options.threads),
            "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        }
        code, said = run_child(command, environment, Turns.of(options.turns))
        if code or not answer.exists():
            raise DGQError(reason(code, said))
        content: dict[str, Any] = json.loads(answer.read_text())
        return content


def run_child(
    command: Sequence[str], environment: Mapping[str, str], turns: Turns
) -> tuple[int, str]:
    """The exit code of a child and its stderr; if there are others, it runs in its own group.

    Raises:
        DGQError: if it does not end in time.
    """
    group = None if turns.folder is None else 0
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, process_group=group
    ) as child:
        turns.join(child.pid)
        RUNNING.add(child)
        try:
            _, said = child.communicate(timeout=MAX_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise DGQError(f"not finished after {MAX_SECONDS} s") from error
        finally:
            RUNNING.discard(child)
            turns.leave(child.pid)
            kill(child)
            turns.wake()
    return child.returncode, said


def kill(child: "subprocess.Popen[str]") -> None:
    """End a running child, and everything it started if it has its own group."""
    if child.poll() is None:
        is_leader = os.getpgid(child.pid) == child.pid
        os.killpg(child.pid, signal.SIGKILL) if is_leader else child.kill()


def stop_children() -> None:
    """End the children of other threads, which then continue."""
    for child in list(RUNNING):
        kill(child)


def reason(code: int, said: str) -> str:
    """Why a child has failed, in one line."""
    if code == -9:
        return "killed (exit code -9): not enough memory?"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


def answer(question: Path, target: Path) -> None:
    """Carry out a request; runs in the child."""
    content = json.loads(question.read_text())
    options = Options(**content["options"] | {"ckpts": tuple(content["options"]["ckpts"])})
    request = Request(**content["request"])
    subject = SUBJECTS[request.model](options)
    if not request.part:
        write_json(target, measure(subject, request))
        return
    torch.set_num_threads(options.threads)
    part = subject.part(request.part, request.ckpt)
    if part is not None:
        with torch.no_grad():
            part.ensure()
    write_json(target, {})
