"""The package that ``pip install`` gives: ``dgq`` alone, light to import, complete by itself."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.tiny_pipelines import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = [
    p.relative_to(ROOT) for p in (ROOT / "dgq").rglob("*") if p.suffix in (".py", ".cpp", ".hpp")
]
HEAVY = ("lightning", "datasets", "torchmetrics", "matplotlib", "pandas", "jsonargparse")
REPOSITORY = ("lit", "data", "evaluation", "scenes", "benchmarks", "configs")
OPTIONAL = {"datasets", "onnx", "onnxruntime", "openvino", "peft", "triton"}
"""What ``dgq`` imports where it is asked for, with a word on how to get it."""


def imported(file: Path) -> set[str]:
    """Top-level names of all modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).partition(".")[0])
    return found


def normal(name: str) -> str:
    """A distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_dgq_imports_is_what_it_depends_on() -> None:
    names = {name for file in FILES if file.suffix == ".py" for name in imported(file)}
    foreign = names - set(sys.stdlib_module_names) - {"dgq"}
    owners = packages_distributions()
    found = {normal(owners[name][0]) for name in foreign - OPTIONAL}
    declared = {normal(re.split(r"[<>=\[]", each)[0]) for each in PROJECT["dependencies"]}
    assert found - declared == set()
    assert declared - found == set()
    assert foreign.isdisjoint({*HEAVY, *REPOSITORY} - OPTIONAL)


IMPORT = f"""
import importlib, pkgutil, sys
import dgq
print([name for name in {HEAVY + REPOSITORY} if name in sys.modules])
import evaluation
for module in pkgutil.walk_packages(evaluation.__path__, "evaluation."):
    importlib.import_module(module.name)
tops = ("lightning", "pytorch_lightning", "lit", "benchmarks")
print([name for name in (*tops, "scenes.training", "scenes.studies") if name in sys.modules])
"""


def test_importing_it_is_light_and_measuring_takes_nothing_that_trains() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.splitlines() == ["[]", "[]"]


USE = """
import importlib.util, sys
from pathlib import Path
import torch
import dgq
from diffusers import DiffusionPipeline

torch.set_num_threads(1)
environment, pipeline = sys.argv[1:]
assert Path(dgq.__file__).is_relative_to(environment), dgq.__file__
rooms = ("lit", "data", "evaluation", "scenes")
assert not [name for name in rooms if importlib.util.find_spec(name)]
try:
    dgq.load_pipeline("scenes")
except dgq.DGQError as error:
    print(error)
pipe = DiffusionPipeline.from_pretrained(pipeline)
prompts = [f"{n} red circles" for n in range(4)]
recipe = dgq.Ours(
    learning=dgq.LearningSettings(iterations=2, polish_iterations=1)
)
result = dgq.calibrate(pipe, prompts, recipe, num_inference_steps=2, n_held_out_prompts=1)
print(result.report)
dgq.save(result, "model")
pipe.unet = dgq.load_quantized_unet("model")
print(pipe.unet.execution)
image = pipe("a red circle", num_inference_steps=2, output_type="pt").images
assert image.isfinite().all()
with dgq.recording(pipe.unet) as calls:
    pipe("a red circle", num_inference_steps=2, output_type="latent")
print(len(calls), "calls")
"""


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_calibrates_saves_loads_and_draws(
    micro_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("setuptools", minversion="77")
    source, wheels, environment = tmp_path / "source", tmp_path / "wheels", tmp_path / "env"
    source.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*("dgq", "lit", "data", "evaluation", "scenes", "benchmarks", "configs"), "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py", "evaluate.py"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    assert {name.parts[0] for name in held if not name.parts[0].endswith(".dist-info")} == {"dgq"}
    assert set(FILES) <= held

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # Dependencies by path: links of editable installs in that folder are not followed then.
    dependencies = {"PYTHONPATH": sysconfig.get_paths()["purelib"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-c", USE, environment, micro_folder],
        cwd=elsewhere,
        env=os.environ | dependencies,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "embedded models come with DGQ's repository" in done.stdout
    assert "25 targets" in done.stdout  # 24, then the UNet as a whole
    assert "3 calls" in done.stdout
    assert sorted(path.name for path in elsewhere.iterdir()) == ["model"]
