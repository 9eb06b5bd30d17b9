"""What measuring takes: no Lightning, nothing that trains."""

import subprocess
import sys

from tests.tiny_pipelines import ROOT

CODE = """
import importlib, pkgutil, sys
import evaluation
for module in pkgutil.walk_packages(evaluation.__path__, "evaluation."):
    importlib.import_module(module.name)
tops = {"lightning", "pytorch_lightning", "lit", "benchmarks"}
found = {name for name in sys.modules if name.partition(".")[0] in tops}
found |= {name for name in sys.modules if name.startswith(("scenes.training", "scenes.studies"))}
print(sorted(found))
"""


def test_no_module_of_evaluation_imports_lightning_or_trainings() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
