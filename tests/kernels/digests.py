"""What the kernels compute, as digests; as a script, for a process whose interpreter is Triton's own."""

import hashlib
import json

import torch

from fastgan_kernels import use_backend
from tests.kernels.harness import derivatives, lay_out, random
from tests.kernels.ops import OPS


def digests() -> dict[str, str]:
    """Of the output and two orders of gradients of every op."""
    found = {}
    for spec in OPS:
        op, _ = spec.with_settings(spec.fixed_settings[0])
        for dtype, layout in (
            (torch.float64, "channels_last"),
            (torch.float32, "contiguous"),
            (torch.bfloat16, "contiguous"),
        ):
            x, *operands = spec.prepared((2, 3, 5, 4), dtype)
            inputs = [lay_out(x, layout), *operands]
            cotangents = [random(t.shape, i, t.dtype) for i, t in enumerate((op(*inputs), *inputs))]
            digest = hashlib.sha256()
            for t in derivatives(op, inputs, cotangents):
                digest.update(t.flatten().contiguous().view(torch.uint8).numpy(force=True).tobytes())
            found[f"{spec.name} {dtype}"] = digest.hexdigest()
    return found


if __name__ == "__main__":
    with use_backend("triton"):
        print(json.dumps(digests()))
