import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.digests import digests

ROOT = Path(__file__).parents[2]


@pytest.mark.exhaustive  # about the tests themselves; Triton's own interpreter is slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the chip")
def test_the_spared_interpreter_computes_what_tritons_own_does_to_the_last_bit():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.digests"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert digests() == json.loads(run.stdout)
