from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Traffic, nbytes
from tests.kernels.specs.gradient_norms import PROBLEMS, SHAPES, elements_of_a_sample, inputs


def _registered(tensors: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    (x,) = tensors
    ops = torch.ops.fastgan
    settings = (1.0, True)
    _, norms = ops.gradient_penalty.default(x.detach(), *settings)
    d = random((), 2, norms.dtype).requires_grad_()
    v = random(x.shape, 3, x.dtype)
    return [
        (ops.gradient_penalty.default, (x, *settings)),
        (ops.gradient_penalty_backward.default, (d, x, norms, *settings)),
        *(
            (ops.gradient_penalty_double_backward.default, (v, d.detach(), x.detach(), norms, *needs, *settings))
            for needs in ((True, True), (True, False), (False, True))
        ),
    ]


SPEC = OpSpec(
    name="gradient_penalty",
    inputs=inputs,
    # Far from the norms that the inputs have.
    settings=st.fixed_dictionaries(
        {"target": st.sampled_from([0.0, 0.1, 1.0, 3.7]), "one_sided": st.sampled_from([False, True])}
    ),
    fixed_settings=({}, {"one_sided": True}, {"target": 0.0}),
    reduction=lambda shape: shape[0] * elements_of_a_sample(shape),
    shapes=SHAPES,
    registered=_registered,
    saved=lambda inputs, y: nbytes(*inputs) + 4 * len(inputs[0]),
    output_shape=lambda shape: (),
    output_dtype=lambda dtype: torch.float64 if dtype == torch.float64 else torch.float32,
    keeps_layout=False,
    highest_order=2,
)

TRAFFIC = Traffic(
    operands=lambda x: [],
    read_by_backward=lambda x, operands, y: [x],
    bars=(Bars(1.02, 1.02, PROBLEMS, apart=0.007),),
)
