"""Breaks the kernels on purpose and says which test notices: ``python -m tests.breaks [WORDS...]``.

Each break is applied to a copy of the kernels, whose tests must then fail in Triton's interpreter: those of plain
pytest, or else the exhaustive ones. The table that this prints is kept in tests/README.md. Ends with exit code 1 if a
break goes unnoticed.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
KERNELS = "kernels/fastgan_kernels"
TIERS = {"plain": "not exhaustive and not judged", "exhaustive": "exhaustive"}

SPECTRAL_NORM = ("test_spectral_norm.py",)
COMPILED = ("test_compiled.py",)
HUGE = ("test_huge.py",)


class Break(NamedTuple):
    """An edit of a file of the kernels, and the tests that may notice.

    Attributes:
        tests: files of tests/kernels; by default that of the op. The compile check notices many an edit of a kernel, so
            values must notice without it.
        op: whose tests of test_every_op.py are run after them; by default those of the file, where ``tests`` are not
            given.
    """

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    op: str = ""


BREAKS = (
    Break(
        "mask: the last row is forgotten",
        "layout.py",
        "(row < rows)[:, None] & ",
        "(row < rows - 1)[:, None] & ",
        ("test_bias_act.py",),
        "bias_act",
    ),
    Break("mask: lanes past the end enter the bias gradient", "bias_act.py", "dx = tl.where(mask, dx, 0.0)", "dx = dx"),
    Break(
        "mask: lanes past the end enter the variance",
        "epilogue_forward.py",
        "deviation = tl.where(mask, z - mean[:, None], 0.0)",
        "deviation = z - mean[:, None]",
        ("test_adain.py",),
    ),
    Break(
        "mean: divided by the tile, not by the pixels",
        "epilogue_forward.py",
        "mean = tl.sum(z, axis=1) / count",
        "mean = tl.sum(z, axis=1) / BLOCK_PIXELS",
        ("test_adain.py",),
    ),
    Break(
        "variance: E[x^2] - E[x]^2",
        "epilogue_forward.py",
        "tl.sum(deviation * deviation, axis=1) / count",
        "(tl.sum(z * z, axis=1) / count - mean * mean)",
        ("test_adain.py",),
    ),
    Break(
        "variance: lanes combined without the shift of their means",
        "epilogue_forward.py",
        " + deviation * deviation * count[None, :]",
        "",
        ("test_adain.py",),
    ),
    Break(
        "statistics: the last span is left out",
        "epilogue_forward.py",
        "(others < SPANS)",
        "(others < SPANS - 1)",
        ("test_adain.py",),
    ),
    Break(
        "stride: every sample takes the style of the first",
        "epilogue_tile.py",
        "sample * stride + channel",
        "sample * 0 + channel",
        ("test_adain.py",),
    ),
    Break(
        "layout: any strides are read as if contiguous",
        "layout.py",
        "return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()",
        "return x",
        ("test_bias_act.py",),
        "bias_act",
    ),
    Break("layout: the incoming gradient keeps a layout of its own", "bias_act.py", "dense(g, like=y)", "dense(g)"),
    Break(
        "channel: the bias of the neighbour",
        "bias_act.py",
        "ptr + row % channels",
        "ptr + (row + 1) % channels",
    ),
    Break(
        "sign: of the projection in the first gradient",
        "epilogue_backward.py",
        "(g - over_pixels(mean_g) - xh",
        "(g - over_pixels(mean_g) + xh",
        ("test_adain.py",),
    ),
    Break(
        "sign: the slope where the output is exactly 0",
        "activation.py",
        "g = tl.where(y > 0, g,",
        "g = tl.where(y >= 0, g,",
        ("test_bias_act.py",),
        "bias_act",
    ),
    Break(
        "dtype: float64 computed in float32",
        "precision.py",
        "return tl.float64 if storage == torch.float64 else tl.float32",
        "return tl.float32",
        ("test_bias_act.py",),
        "bias_act",
    ),
    Break(
        "dtype: sums of gradients stored in half precision",
        "precision.py",
        "return torch.float64 if storage == torch.float64 else torch.float32",
        "return storage",
        ("test_bias_act.py",),
        "bias_act",
    ),
    Break(
        "dtype: constants rounded to float32",
        "bias_act.py",
        "tl.full((), GAIN, COMPUTE)",
        "tl.full((), GAIN, tl.float32)",
    ),
    Break(
        "clamp: compared before it is rounded to the type of x",
        "bias_act.py",
        '"CLAMP": _round_to(clamp, dtype)',
        '"CLAMP": clamp',
    ),
    Break(
        "NaN: stopped by the activation",
        "activation.py",
        "y = tl.where(y <= 0, 0.0, y)",
        "y = tl.where(y > 0, y, 0.0)",
        ("test_bias_act.py",),
        "bias_act",
    ),
    Break(
        "second order: the derivative of 1/std left out",
        "style_epilogue.py",
        "dz = dz + r * self._project(dxh) - scale * r.square() * mean_vpg * xh",
        "dz = dz + r * self._project(dxh)",
        ("test_adain.py",),
    ),
    Break(
        "second order: no path through the bias gradient",
        "bias_act.py",
        "g if ctx.has_dx else None, b if ctx.has_dbias else None",
        "g if ctx.has_dx else None, None",
    ),
    Break(
        "third order: the saved 1/std taken as a constant",
        "style_epilogue.py",
        "self._r = torch.rsqrt(self._mean(deviation.square()) + eps)",
        "self._r = torch.rsqrt(self._mean(deviation.square()) + eps).detach()",
        ("test_every_op.py",),
        "adain",
    ),
    Break(
        "noise: the backward pass draws another",
        "epilogue_backward.py",
        "noise_rows(x, noise, seed)",
        "noise_rows(x, noise, None if seed is None else seed + 1)",
        ("test_style_epilogue.py",),
    ),
    Break(
        "noise: its gradient summed from rounded values",
        "epilogue_backward.py",
        "torch.empty_like(x, dtype=compute_dtype(x.dtype)) if needs_noise",
        "torch.empty_like(x) if needs_noise",
        ("test_style_epilogue.py",),
    ),
    Break(
        "mask: lanes past the end enter the gradients of bias and strength",
        "epilogue_backward.py",
        "dx = tl.where(mask, dx, 0.0)",
        "dx = dx",
        ("test_style_epilogue.py",),
    ),
    Break(
        "tutorial's order: the sign of the activation's input without the shift",
        "epilogue_backward.py",
        "y = (z - mean[:, None]) * factor[:, None] + shift[:, None]",
        "y = (z - mean[:, None]) * factor[:, None]",
        ("test_style_epilogue.py",),
    ),
    Break(
        "second order: the strength's gradient without the noise's cotangent",
        "style_epilogue.py",
        "narrow(_sum(_product(dp, n), _product(first, vnoise)), strength)",
        "narrow(_product(dp, n), strength)",
        ("test_style_epilogue.py",),
    ),
    Break(
        "output mask: a gradient that nobody asked for",
        "bias_act.py",
        "dx = torch.empty_like(y) if needs_dx else y.new_empty(0)",
        "dx = torch.empty_like(y)",
    ),
    Break(
        "output mask: the second gradient of a constant dy",
        "minibatch_stddev.py",
        "needs_dy = ctx.needs_input_grad[0]",
        "needs_dy = True",
    ),
    Break(
        "output mask: the gradient of a constant scale",
        "epilogue_backward.py",
        "new(needs_scale, n, c)",
        "new(True, n, c)",
        ("test_every_op.py",),
        "adain",
    ),
    Break(
        "compile: the eager route inside a compiled region",
        "differentiable.py",
        "if torch.compiler.is_compiling() or _route.registered:",
        "if _route.registered:",
        ("test_bias_act.py",),
        "bias_act",
    ),
    Break(
        "compile: a recorded compiled backward is not refused",
        "differentiable.py",
        "return recorded and",
        "return False and",
        ("test_bias_act.py",),
        "bias_act",
    ),
    Break(
        "pairs: no gradient through the outputs of the other samples",
        "minibatch_discrimination.py",
        "(g_i + g_j) * tl.exp(-distance)",
        "g_i * tl.exp(-distance)",
    ),
    Break("pairs: a tie has a sign", "minibatch_discrimination.py", "(difference > 0)", "(difference >= 0)"),
    Break(
        "pairs: the distance is that of the first chunk of components",
        "minibatch_discrimination.py",
        "for start in range(0, components, BLOCK_C):",
        "for start in range(0, BLOCK_C, BLOCK_C):",
    ),
    Break(
        "pairs: rows of samples counted in 32 bits",
        "minibatch_discrimination.py",
        "j * kernels.to(tl.int64)",
        "j * kernels",
        HUGE,
    ),
    Break(
        "penalty: a norm of zero divides",
        "gradient_penalty.py",
        "return tl.where(zero, 0.0, 1.0 / tl.where(zero, 1.0, norm))",
        "return 1.0 / norm",
    ),
    Break(
        "penalty: norms below the target are not free",
        "gradient_penalty.py",
        "excess = tl.where(excess <= 0, 0.0, excess)",
        "excess = excess",
    ),
    Break("penalty: no curvature", "gradient_penalty.py", "along = (curvature - across) *", "along = -across *"),
    Break(
        "penalty: rows past the end of the last block count as norms of zero",
        "gradient_penalty.py",
        "tl.where(exists, excess * excess, 0.0)",
        "excess * excess",
    ),
    Break(
        "stride: shares with strides of their own are read as neighbours",
        "interpolate.py",
        "alpha_ptr + row * alpha_stride",
        "alpha_ptr + row",
    ),
    Break(
        "sum: the share has the gradient of its last tile alone",
        "interpolate.py",
        "return dreal, dfake, dalpha if partials is None else sum_partials(partials)",
        "return dreal, dfake, dalpha if partials is None else partials[0, :, -1].clone()",
    ),
    Break(
        "second order: cotangents of the images exchange their shares",
        "interpolate.py",
        "dg = _interpolate(u, w, alpha)",
        "dg = _interpolate(w, u, alpha)",
    ),
    Break(
        "saved: the images although no gradient needs them",
        "interpolate.py",
        "if ctx.needs_input_grad[2] else ()",
        "if True else ()",
    ),
    Break(
        "noise: the counter starts anew in every sample",
        "noise_injection.py",
        "pixel < pixels, sample * pixels + pixel",
        "pixel < pixels, sample * 0 + pixel",
    ),
    Break(
        "noise: a counter of 32 bits",
        "noise.py",
        "tl.load(seed_ptr), counter)",
        "tl.load(seed_ptr), counter.to(tl.int32))",
        ("test_noise.py",),
    ),
    Break(
        "noise: one seed for every call", "noise.py", "torch.randint(2**63 - 1,", "torch.randint(1,", ("test_noise.py",)
    ),
    Break(
        "noise: the backward pass draws anew",
        "noise_injection.py",
        "seed if needs_strength else None,",
        "draw_seed(strength) if needs_strength else None,",
    ),
    Break(
        "noise: drawn again by every program that shares its pixels",
        "noise_injection.py",
        "seed is not None and self.tiling.splits > 1",
        "False",
    ),
    Break(
        "noise: the second order takes the strength for its cotangent",
        "noise_injection.py",
        "_noise_injection_backward(g, a, b, None,",
        "_noise_injection_backward(g, strength, b, None,",
    ),
    Break(
        "stddev: the members of a group are neighbours",
        "minibatch_stddev.py",
        "sample = member.to(tl.int64) * groups + group",
        "sample = group.to(tl.int64) * MEMBERS + member",
    ),
    Break(
        "stddev: members that a group does not have enter its variance",
        "minibatch_stddev.py",
        "tl.where(mask, x - (tl.sum(x, axis=0) / count)[None, :, :], 0.0)",
        "x - (tl.sum(x, axis=0) / count)[None, :, :]",
    ),
    Break(
        "stddev: the first gradient forgets to divide by the members",
        "minibatch_stddev.py",
        "(features.to(COMPUTE) * MEMBERS)",
        "features.to(COMPUTE)",
    ),
    Break(
        "stddev: the second order without the mean of its cotangent",
        "minibatch_stddev.py",
        "(v - mean_v[None, :, :] - xh",
        "(v - xh",
    ),
    Break(
        "pixel norm: divided by the tile, not by the channels",
        "pixel_norm.py",
        "count, eps = channels.to(COMPUTE)",
        "count, eps = tl.full((), BLOCK_CHANNELS, COMPUTE)",
    ),
    Break(
        "pixel norm: the mean square is a constant to the first gradient",
        "pixel_norm.py",
        "dx = (g - xh * mean_gxh[:, None, :])",
        "dx = (g + 0 * xh)",
    ),
    Break(
        "pixel norm: chunks of channels from the first one only",
        "pixel_norm.py",
        "channel = start + tl.arange",
        "channel = 0 * start + tl.arange",
    ),
    Break(
        "pixel norm: the second order without the derivative of the projection",
        "pixel_norm.py",
        "(xh * (c - 3 * a * b)",
        "(xh * (c - a * b)",
    ),
    Break(
        "spectral norm: a channels-last weight takes v in the order of memory",
        "spectral_normalize.py",
        "(col if GIVEN else place)",
        "place",
        SPECTRAL_NORM,
    ),
    Break(
        "spectral norm: the first chunk of a column is its sum",
        "power_iteration.py",
        "for start in range(0, chunks, BLOCK_CHUNKS):",
        "for start in range(0, 1):",
        SPECTRAL_NORM,
    ),
    Break(
        "spectral norm: sigma without eps",
        "power_iteration.py",
        "norm / divisor * norm",
        "norm",
        SPECTRAL_NORM,
    ),
    Break(
        "spectral norm: u and v are not copied for backward",
        "spectral_normalize.py",
        "mask=exists & (row_tile == 0)",
        "mask=exists & (row_tile < 0)",
        SPECTRAL_NORM,
    ),
    Break(
        "spectral norm: pointers of weights that have moved",
        "pointers.py",
        "key = device, tuple([tensor.data_ptr() for tensor in tensors])",
        "key = device, tuple([tensor.shape for tensor in tensors])",
        SPECTRAL_NORM,
    ),
    Break(
        "spectral norm: the second order without the part of <H, dy>",
        "spectral_normalize.py",
        "gw * alpha + gw * alpha + hg * inverse",
        "gw * alpha + gw * alpha",
        SPECTRAL_NORM,
    ),
    Break(
        "spectral norm: the version counters of u and v stand still",
        "power_iteration.py",
        "torch.autograd.graph.increment_version([*us, *vs])",
        "pass",
        SPECTRAL_NORM,
    ),
    Break(
        "resampling: the kernel is not turned around",
        "upfirdn2d.py",
        "col = KW - 1 - b if FLIP else b",
        "col = b",
    ),
    Break(
        "resampling: the gradient by the kernel as it is",
        "upfirdn2d.py",
        "ctx.gain, not ctx.flip)",
        "ctx.gain, ctx.flip)",
    ),
    Break(
        "resampling: a lane without a tap reads a pixel all the same",
        "upfirdn2d.py",
        "met &= b + UP * m < KW",
        "met &= b >= 0",
    ),
    Break(
        "mask: the rows of the image above enter the first windows",
        "upfirdn2d.py",
        "exists = (row + r >= 0) & (row + r < in_h)",
        "exists = row + r < in_h",
    ),
    Break(
        "traffic: strips of single rows",
        "tiling.py",
        "return min(reversed(candidates), key=",
        "return min((1,), key=",
        ("test_upfirdn2d.py",),
    ),
    Break(
        "broadcast: the number of a single plane goes through shared memory",
        "layout.py",
        "if of_planes.shape[0] == 1:",
        "if of_planes.shape[0] == 0:",
        COMPILED,
    ),
    Break(
        "width: nothing is known of the start of a row",
        "tiling.py",
        "return math.gcd(cols, 16)",
        "return 1",
        COMPILED,
    ),
    Break(
        "addresses: 32 bits",
        "layout.py",
        "row = row_tile.to(tl.int64) * BLOCK_ROWS",
        "row = row_tile * BLOCK_ROWS",
        HUGE,
    ),
    Break(
        "traffic: planes of 16K elements read twice",
        "tiling.py",
        "capacity = 16384 if",
        "capacity = 8192 if",
        ("test_traffic.py",),
    ),
)


class FirstFailure:
    """A plugin of pytest."""

    def __init__(self) -> None:
        self.name: str | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and self.name is None:
            self.name = report.nodeid.removeprefix("tests/kernels/")

    pytest_collectreport = pytest_runtest_logreport


def run_tests(copy: Path, arguments: list[str], answer: Connection) -> None:
    """In a process of its own: sends the first test that fails in ``copy``, or None."""
    import pytest

    os.chdir(copy)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    del sys.modules["tests"]  # this one; not the one of the copy
    first = FirstFailure()
    code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *arguments], plugins=[first])
    # 5: there is no test of this tier.
    answer.send(first.name if code in (0, 1, 5) else first.name or f"pytest ended with exit code {int(code)}")


def first_failure(break_: Break, tier: str) -> str | None:
    """Applies the break to a copy of the kernels and returns the first test that fails there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for name in ("kernels", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / KERNELS / break_.file
        source = path.read_text()
        if break_.old not in source:
            raise SystemExit(f"tests.breaks: {break_.file} no longer contains {break_.old!r}: mend the list of breaks")
        path.write_text(source.replace(break_.old, break_.new))
        tests = [f"tests/kernels/{name}" for name in break_.tests or (f"test_{break_.file}",)]
        op = break_.op or ("" if break_.tests else path.stem)
        if op:
            tests += ["-k", f"not test_every_op or {op}", "tests/kernels/test_every_op.py"]
        arguments = ["-m", TIERS[tier], *tests]
        receiver, answer = multiprocessing.Pipe(duplex=False)
        # A fork has torch at once.
        process = multiprocessing.get_context("fork").Process(target=run_tests, args=(copy, arguments, answer))
        process.start()
        answer.close()
        try:
            return receiver.recv()
        except EOFError:
            return "the test process died"
        finally:
            process.join()


def main() -> int:
    wanted = sys.argv[1:]
    breaks = [break_ for break_ in BREAKS if not wanted or any(w in break_.what for w in wanted)]
    if breaks:
        # A process that has been on a GPU cannot be forked.
        os.environ.update({"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
        import hypothesis  # noqa: F401
        import torch._dynamo  # noqa: F401
        import triton.language  # noqa: F401
    unnoticed = 0
    print("| break | first test that fails | tier |\n| --- | --- | --- |")
    for break_ in breaks:
        found = ((first_failure(break_, tier), tier) for tier in TIERS)
        test, tier = next((pair for pair in found if pair[0]), (None, ""))
        unnoticed += test is None
        print(f"| {break_.what} | {f'`{test}`' if test else '**nothing**'} | {tier} |", flush=True)
    return int(unnoticed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
