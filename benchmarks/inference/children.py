"""Child processes of this command: what they are asked, and what they answer."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference.embedded import Embedded
from benchmarks.inference.full_size import FullSize, FullSizeXL, Tiny
from benchmarks.inference.measure import measure
from benchmarks.inference.request import Options, Request
from benchmarks.inference.subjects import Subject
from dgq.errors import DGQError
from dgq.storage.files import write_json

ROOT = Path(__file__).parents[2]
CHILD = "child"
"""The hidden subcommand, before the files of a request and its answer."""

SUBJECTS: dict[str, type[Subject]] = {
    kind.name: kind for kind in (FullSize, FullSizeXL, Tiny, Embedded)
}
MAX_SECONDS = 3600


def ask(request: Request, options: Options, work: Path) -> dict[str, Any]:
    """What a child answers.

    Args:
        request: to it.
        options: of the command.
        work: folder for compiled code, kept by ``torch.compile`` until the command ends.

    Raises:
        DGQError: if it fails, with the last line that it said.
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
        group = 0 if options.turns else None  # of its own, so that others can stop all of it
        try:
            ended = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=MAX_SECONDS,
                process_group=group,
            )
        except subprocess.TimeoutExpired as error:
            raise DGQError(f"not finished after {MAX_SECONDS} s") from error
        if ended.returncode or not answer.exists():
            raise DGQError(reason(ended.returncode, ended.stderr))
        content: dict[str, Any] = json.loads(answer.read_text())
        return content


def reason(code: int, said: str) -> str:
    """Why a child has failed, in one line."""
    if code == -9:
        return "killed (exit code -9): not enough memory?"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


def answer(question: Path, target: Path) -> None:
    """Do what is asked; runs in the child."""
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
