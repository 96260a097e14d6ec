"""What DifferentiableOp does for every op; its two routes are tested through the ops."""

from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan_kernels.differentiable import _on_the_device_of_its_tensors


@pytest.mark.parametrize(("current", "entered"), [(1, []), (0, [torch.device("cuda:1")])])
def test_a_launch_runs_on_the_gpu_of_its_tensors(monkeypatch: pytest.MonkeyPatch, current: int, entered: list):
    seen = []

    @contextmanager
    def device(d: torch.device):
        seen.append(d)
        yield

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device", device)
    with FakeTensorMode():
        x = torch.empty(2, device="cuda:1")
    launch = _on_the_device_of_its_tensors(lambda *args: args)
    assert launch(None, x, 3) == (None, x, 3)
    assert seen == entered
