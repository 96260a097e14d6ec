import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODELS = ["dcgan", "wgan-gp", "stylegan"]
JUDGED = [
    pytest.param(25, MODELS, switch, marks=pytest.mark.judged)
    for switch in ("plain", "channels_last", "bfloat16", "fid")
]


# Even two kills of one model take more than five seconds: torch is imported, and four runs are trained.
@pytest.mark.parametrize(
    ("num_kills", "models", "switch"),
    [(2, ["dcgan"], "plain"), pytest.param(6, MODELS, "plain", marks=pytest.mark.exhaustive), *JUDGED],
)
def test_runs_that_are_killed_end_as_ones_never_interrupted(tmp_path, num_kills, models, switch):
    """Weights, averages, optimizers, log and samples, after SIGKILL at moments that the clock and the disk choose."""
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), str(tmp_path), str(num_kills), "0"]
    command += [f"{model}/{switch}" for model in models]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["model"] for result in results] == models
    for result in results:
        assert result["kills"] == num_kills
        assert result["differ"] == []
    # A third of the kills is at a touch of a partial file, of a checkpoint more often than of the settings or the log.
    assert sum(result["half_written"] for result in results) >= max(1, num_kills // 3)
