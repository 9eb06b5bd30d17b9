"""The repository's scripts, called as a user would."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dgq.command_line import ending
from dgq.storage.checkpoint import has_model

ROOT = Path(__file__).parents[1]


def call(script: str, *arguments: str) -> None:
    """Run one of the project's scripts; if it fails, this command fails."""
    print("python", script, shlex.join(arguments), flush=True)
    subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True)


def exit_code(work: Callable[[], None]) -> int:
    """A command's exit code: 0, 2 after one line about bad input, or that of a failed script."""
    try:
        return ending.exit_code(work)
    except subprocess.CalledProcessError as error:  # the script has printed the reason
        return error.returncode


def calibrate(run: Path, *arguments: str) -> None:
    """Calibrate into a folder, or resume there, unless that has been done.

    Args:
        run: the folder; without arguments, its name is that of the recipe.
        arguments: arguments of ``train.py fit``.
    """
    if has_model(run / "quantized"):
        return
    resume = ["--ckpt_path", "last"] if (run / "last.ckpt").is_file() else []
    own = arguments or ("--config", f"{run.name}.yaml")
    call("train.py", "fit", *own, "--run", str(run), *resume)
