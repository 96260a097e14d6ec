"""The penalty of WGAN-GP on a critic's gradients with respect to its input."""

from benchmarks.op import F32, F64, Call, Op, Traffic
from benchmarks.ops.gradient_norms import CALLS, PROBLEMS, SHAPES, elements_of_a_sample, vector_norm, with_norms

OP = Op(
    name="gradient_penalty",
    operands=lambda shape, **_: {"gradients": shape},
    arrange=with_norms,
    reads={"backward": ("dy", "gradients"), "double_backward": ("dy", "gradients")},
    penalized=("gradients",),
    second=("gradients", "dy"),
    reduction=lambda shape: shape[0] * elements_of_a_sample(shape),
    wide_output=True,
    highest_order=2,
    # The gradients, and their norms in float32.
    saved=lambda t: [t["gradients"], 4 * len(t["gradients"])],
    problems=PROBLEMS,
    torch_functions={"vector_norm": lambda gradients: (vector_norm(gradients) - 1).square().mean()},
    fixed=({}, {"one_sided": True}, {"target": 0.0}),
    # Targets far from the norms of the operands.
    choices={"target": (0.0, 0.1, 1.0, 3.7), "one_sided": (False, True)},
    shapes=SHAPES,
    # The kernels that sum over rows are compiled for gradient_norms.
    compiled=(
        Call((16, 3, 256, 256), F64),
        *(Call((16, 3, 256, 256), F32, settings=s) for s in ({"one_sided": True}, {"target": 0.0})),
        Call((16, 3, 8192, 8192), F32),
        Call((2**22, 3, 16, 16), F32),
    ),
    traffic=(Traffic(1.02, 1.02, CALLS, apart=0.007),),
)
