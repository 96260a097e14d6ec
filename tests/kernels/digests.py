"""What the kernels compute, as digests; as a script, for a process whose interpreter is Triton's own."""

import hashlib
import json

import torch

from fastgan_kernels import use_backend
from tests.kernels.harness import DIFFERENTIABLE, derivatives, lay_out, prepare, random


def digests() -> dict[str, str]:
    """Of the output and two orders of gradients of every op."""
    found = {}
    for op in DIFFERENTIABLE:
        for dtype, layout in (
            (torch.float64, "channels_last"),
            (torch.float32, "contiguous"),
            (torch.bfloat16, "contiguous"),
        ):
            prepared = prepare(op, (2, 3, 5, 4), dtype)
            x, *operands = prepared.inputs
            inputs = [lay_out(x, layout), *operands]
            cotangents = [random(t.shape, i, t.dtype) for i, t in enumerate((prepared.op(*inputs), *inputs))]
            digest = hashlib.sha256()
            for t in derivatives(prepared.op, inputs, cotangents):
                digest.update(t.flatten().contiguous().view(torch.uint8).numpy(force=True).tobytes())
            found[f"{op.name} {dtype}"] = digest.hexdigest()
    return found


if __name__ == "__main__":
    with use_backend("triton"):
        print(json.dumps(digests()))
