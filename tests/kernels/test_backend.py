import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton

from fastgan_kernels import adain, backend, backend_of, bias_act, reference, use_backend

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")


def test_reports_which_backend_runs_and_why():
    x = torch.zeros(1, 1)
    with use_backend("reference"):
        assert backend_of("adain", x) == ("reference", "use_backend chose plain torch")
    with use_backend("auto"):
        choice = backend_of("bias_act", x)
    assert choice.backend == "reference"
    assert "CPU" in choice.reason


@no_gpu
def test_triton_on_the_cpu_is_the_interpreter():
    assert backend_of("adain", torch.zeros(1)) == (
        "triton",
        "the Triton kernel runs on Triton's interpreter on the CPU",
    )


def test_nested_choices_are_undone_in_order_and_after_errors():
    with use_backend("reference"):
        with pytest.raises(KeyError), use_backend("auto"):
            raise KeyError
        assert backend_of("adain", torch.zeros(1)).reason == "use_backend chose plain torch"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="backend is 'cuda', expected 'auto', 'triton' or 'reference'"):
        use_backend("cuda").__enter__()
    with pytest.raises(ValueError, match="no op is called 'adaine'; the ops are adain, bias_act"):
        backend_of("adaine", torch.zeros(1))


def test_devices_without_kernels_run_the_reference_or_refuse():
    x = torch.zeros(2, 3, device="meta")
    with use_backend("auto"):
        assert "not for meta devices" in backend_of("bias_act", x).reason
        assert bias_act(x).device.type == "meta"
    with pytest.raises(RuntimeError, match=r"use_backend\('triton'\) cannot run here: the kernels are made for NVIDIA"):
        bias_act(x)


def test_the_fallback_is_said_once(caplog: pytest.LogCaptureFixture):
    backend._decide_once.cache_clear()
    x = torch.zeros(2, 3)
    with use_backend("auto"), caplog.at_level(logging.WARNING, logger="fastgan_kernels"):
        bias_act(x)
        bias_act(x)
        adain(x, x, x)
    assert [r.getMessage() for r in caplog.records] == [
        "fastgan ops on cpu tensors run in plain torch: Triton has no kernels for the CPU"
    ]


@pytest.mark.parametrize("compile_backend", ["eager", "aot_eager"])
def test_a_compiled_function_follows_the_chosen_backend(compile_backend: str, monkeypatch: pytest.MonkeyPatch):
    compiled = torch.compile(lambda x: bias_act(x, act="relu"), fullgraph=True, backend=compile_backend)
    x = torch.randn(2, 3)
    monkeypatch.setattr(reference, "bias_act", lambda x, *_, **__: x + 100)
    with use_backend("triton"):
        assert torch.equal(compiled(x), x.relu())
    with use_backend("reference"):
        assert torch.equal(compiled(x), x + 100)


@no_gpu
def test_without_the_interpreter_triton_on_the_cpu_is_refused_with_the_remedy():
    code = (
        "import torch, fastgan_kernels as k\n"
        "with k.use_backend('triton'):\n"
        "    try: k.bias_act(torch.zeros(1, 1))\n"
        "    except RuntimeError as e: print(e)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "TRITON_INTERPRET=1 before the import" in output.stdout


@pytest.mark.parametrize(
    ("cc", "programs", "header", "lacking"),
    [
        (None, ["gcc"], "Python.h", None),
        (None, ["clang"], "Python.h", None),
        ("icx", ["icx"], "Python.h", None),
        (None, ["cc"], "Python.h", "there is no gcc and no clang: install one, or name one in CC"),
        ("icx", ["gcc"], "Python.h", "there is no 'icx', which the environment variable CC names"),
        ("", ["gcc"], "Python.h", "there is no '', which the environment variable CC names"),
        (None, ["gcc"], "abstract.h", "there is no .*/Python.h: install them .*python3-dev"),
    ],
)
def test_what_triton_needs_for_its_launcher(
    cc: str | None, programs: list[str], header: str, lacking: str | None, tmp_path: Path
):
    (tmp_path / header).touch()
    environment = {} if cc is None else {"CC": cc}
    found = backend.lacking_for_launches(environment, {name: f"/bin/{name}" for name in programs}.get, tmp_path)
    assert found is None if lacking is None else re.search(lacking, found)


@pytest.fixture
def gpu_without_a_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H200")
    monkeypatch.setenv("CC", "no-such-compiler")
    for kept in (backend._choose, backend._decide_once):
        kept.cache_clear()
    yield
    for kept in (backend._choose, backend._decide_once):
        kept.cache_clear()


@no_gpu
@pytest.mark.usefixtures("gpu_without_a_compiler")
def test_a_gpu_without_a_compiler_runs_the_reference_and_says_so_once(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="fastgan_kernels"):
        assert [backend._decide("auto", torch.device("cuda", 0)) for _ in range(3)] == [False] * 3
    [record] = caplog.records
    assert record.getMessage().startswith(
        "fastgan ops on cuda tensors run in plain torch: Triton needs a C compiler, and there is no 'no-such-compiler'"
    )
    with pytest.raises(RuntimeError, match=r"use_backend\('triton'\) cannot run here: Triton needs a C compiler"):
        backend._decide("triton", torch.device("cuda", 0))


@no_gpu
@pytest.mark.usefixtures("gpu_without_a_compiler")
@pytest.mark.parametrize(("version", "triton_runs"), [("3.6.0", False), ("3.7.1", True), ("3.8.0", True)])
def test_what_triton_compiled_before_needs_no_compiler(
    monkeypatch: pytest.MonkeyPatch, version: str, triton_runs: bool
):
    """But in Triton 3.6, which compiles a launcher for each signature of a kernel."""
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(triton.runtime.driver, "_active", object())
    assert backend._decide("auto", torch.device("cuda", 0)) == triton_runs


@no_gpu
def test_a_driver_that_does_not_start_is_no_silent_fallback():
    assert backend._why_triton_cannot_start(None).startswith("Triton cannot start: 0 active drivers")
