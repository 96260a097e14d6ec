"""``python -m fastgan.dropin SCRIPT``: the script sees what ``python SCRIPT`` shows it, and so do its children."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastgan.dropin import finder
from tests.fastgan.dropin import trees

# A script that prints what it can see of how it was started; and then, where the environment has CHILD, starts
# processes of both kinds that training scripts start.
SCRIPT = '''
"""A script."""
import json, os, sys
import __main__
names = sorted(name for name in globals() if name.startswith("__"))

def work(rank, path):
    import torch_utils.ops.fma
    open(path, "w").write(torch_utils.ops.fma.__file__)

class Samples:
    def __len__(self):
        return 1
    def __getitem__(self, i):
        import torch_utils.ops.fma
        return torch_utils.ops.fma.__file__

if __name__ == "__main__":
    print(json.dumps({
        "argv": sys.argv, "path": sys.path, "names": names, "file": __file__, "package": __package__, "doc": __doc__,
        "spec": __spec__, "cached": __cached__, "builtins": type(__builtins__).__name__, "main": __main__.work is work,
        "loader": [type(__loader__).__name__, __loader__.name, __loader__.path],
    }))
    if "CHILD" in os.environ:
        import torch
        from torch_utils.ops.fma import fma
        torch.multiprocessing.spawn(work, args=(os.environ["CHILD"],), nprocs=1)
        print(next(iter(torch.utils.data.DataLoader(Samples(), num_workers=1, multiprocessing_context="spawn")))[0])
        sys.exit(fma(torch.tensor(3), torch.tensor(2), torch.tensor(1)).item())
'''
FMA = os.path.join(finder._HERE, "nvidia", "fma.py")


ROOT = Path(__file__).parents[3]
SOURCES = (ROOT, ROOT / "kernels")


def run(*args, cwd, PYTHONPATH="", sources=SOURCES, **environment):
    """Runs Python on the sources of this checkout, whatever is installed."""
    env = {name: value for name, value in os.environ.items() if name != finder._ENVIRONMENT} | environment
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [PYTHONPATH, *map(str, sources)]))
    return subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


# One test, as each process imports torch.
def test_a_script_sees_what_python_shows_it_and_every_process_that_it_starts_runs_our_ops(tmp_path):
    trees.nvidia(tmp_path)
    trees.write(tmp_path, {"probe.py": SCRIPT})
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "link.py").symlink_to(tmp_path / "probe.py")
    args = ["scripts/link.py", "--out", "a b", "-h"]
    plain = run(*args, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    ours = run("-m", "fastgan.dropin", *args, cwd=tmp_path, CHILD=str(tmp_path / "child"))
    assert ours.returncode == 7, ours.stderr
    seen, worker = ours.stdout.splitlines()
    assert json.loads(seen) == json.loads(plain.stdout)
    assert json.loads(seen)["path"][0] == str(tmp_path)
    assert (tmp_path / "child").read_text() == worker == FMA
    # The children say nothing.
    assert ours.stderr.count("fastgan.dropin:") == 1


@pytest.mark.exhaustive  # two processes that import torch
def test_torchrun_starts_a_script_by_the_module(tmp_path):
    trees.nvidia(tmp_path)
    trees.write(tmp_path, {"train.py": "import sys\nfrom torch_utils.ops import fma\nprint(sys.argv, fma.__file__)\n"})
    done = run(
        "-m", "torch.distributed.run", "--nproc_per_node", 1, "-m", "fastgan.dropin", "train.py", "--batch", 4,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['train.py',", "'--batch',", "'4']", FMA]


def test_the_start_of_an_interpreter_imports_no_torch_and_runs_the_sitecustomize_that_it_hides(tmp_path):
    trees.nvidia(tmp_path)
    trees.write(tmp_path, {"hidden/sitecustomize.py": "import os; ran = os.environ['FASTGAN_DROPIN']\n"})
    code = (
        "import sys, sitecustomize, importlib.util as u; print(sitecustomize.ran, sitecustomize.__file__);"
        " print(u.find_spec('torch_utils.ops.fma').origin); print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    path = os.pathsep.join([finder.STARTUP, str(tmp_path / "hidden")])
    done = run("-c", code, cwd=tmp_path, PYTHONPATH=path, FASTGAN_DROPIN="torch_utils.ops=nvidia")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    hidden = str(tmp_path / "hidden" / "sitecustomize.py")
    assert done.stdout.split() == [
        "torch_utils.ops=nvidia",
        hidden,
        os.path.join(finder._HERE, "nvidia", "fma.py"),
        "[]",
    ]


def test_an_interpreter_without_fastgan_starts_as_it_would(tmp_path):
    trees.write(tmp_path, {"hidden/sitecustomize.py": "ran = True\n"})
    path = os.pathsep.join([finder.STARTUP, str(tmp_path / "hidden")])
    # Without site-packages, and so without the finder of an editable install.
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'packages' not in p]; import site; site.execsitecustomize();"
        " import sitecustomize; assert sitecustomize.ran; assert 'fastgan' not in sys.modules"
    )
    done = run("-S", "-c", code, cwd=tmp_path, PYTHONPATH=path, sources=(), FASTGAN_DROPIN="torch_utils.ops=nvidia")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("args", "said"), [((), "usage: python -m fastgan.dropin SCRIPT"), (("no.py",), "'no.py'")])
def test_without_a_script_the_exit_code_is_2(tmp_path, args, said):
    done = run("-m", "fastgan.dropin", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_help(tmp_path):
    done = run("-m", "fastgan.dropin", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: python -m fastgan.dropin SCRIPT [ARGS]" in done.stdout
