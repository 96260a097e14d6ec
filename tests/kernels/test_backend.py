import logging
import os
import subprocess
import sys

import pytest
import torch

from fastgan_kernels import adain, backend, backend_of, bias_act, reference, use_backend

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")


def test_reports_which_backend_runs_and_why():
    x = torch.zeros(1, 1)
    with use_backend("reference"):
        assert backend_of("adain", x) == ("reference", "plain torch was asked for by use_backend")
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
        assert backend_of("adain", torch.zeros(1)).reason == "plain torch was asked for by use_backend"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="backend is 'cuda', expected 'auto', 'triton' or 'reference'"):
        use_backend("cuda").__enter__()
    with pytest.raises(ValueError, match="no op is called 'adaine'; the ops are adain, bias_act"):
        backend_of("adaine", torch.zeros(1))


def test_devices_without_kernels_run_the_reference_or_refuse():
    x = torch.zeros(2, 3, device="meta")
    with use_backend("auto"):
        assert "not on meta devices" in backend_of("bias_act", x).reason
        assert bias_act(x).device.type == "meta"
    with pytest.raises(
        RuntimeError, match=r"use_backend\('triton'\) cannot run here: the kernels are tested on NVIDIA"
    ):
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
