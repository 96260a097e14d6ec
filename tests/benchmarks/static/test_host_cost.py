"""Host cost over a stub of CUDA's driver. One child process compiles three kernels: 6 CPU seconds."""

import pytest

from benchmarks.__main__ import main


def test_host_cost_is_in_units_of_torchs_own_ops_and_launches_are_counted(capsys: pytest.CaptureFixture):
    assert main(["host", "--op", "bias_act"]) == 0
    forward, backward, double_backward = (line.split() for line in capsys.readouterr().out.splitlines()[2:])
    assert [line[1] for line in (forward, backward, double_backward)] == ["forward", "backward", "double_backward"]
    # The gradients and the sum of the bias' partial sums.
    assert [int(line[-1]) for line in (forward, backward, double_backward)] == [1, 2, 1]
    # A factor of three is left for other machines and versions of torch.
    assert 0.5 < float(forward[2]) < 20
    assert 1 < float(backward[2]) < 50


def test_an_unknown_op_is_refused(capsys: pytest.CaptureFixture):
    assert main(["host", "--op", "biasact"]) == 2
    assert "no op is called 'biasact'; choose from 'adain'" in capsys.readouterr().err
