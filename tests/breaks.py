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
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
KERNELS = "kernels/fastgan_kernels"
TIERS = {"plain": "not exhaustive and not judged", "exhaustive": "exhaustive"}


class Break(NamedTuple):
    """An edit of a file of the kernels, and who may notice: files of tests, and an op of test_every_op.py."""

    what: str
    file: str
    old: str
    new: str
    noticed_by: list[str]


# "@ file", then who may notice; by default the tests of the op of that name. The compile check notices many an edit of
# a kernel, so values must notice without it.
EDITS = """\
@ layout.py test_bias_act.py bias_act
mask: the last row is forgotten
- (row < rows)[:, None] &
+ (row < rows - 1)[:, None] &
@ ops/bias_act.py
mask: lanes past the end enter the bias gradient
- dx = tl.where(tile.mask, dx, 0.0)
+ dx = dx
@ ops/norm_act/forward.py test_adain.py
mask: lanes past the end enter the variance
- deviation = tl.where(tile.mask, z - over_pixels(mean[:, None]), 0.0)
+ deviation = z - over_pixels(mean[:, None])
mean: divided by the tile, not by the pixels
- mean = sum_of_channels(z) / block.count
+ mean = sum_of_channels(z) / BLOCK_PIXELS
variance: E[x^2] - E[x]^2
- var = sum_of_channels(deviation * deviation) / block.count
+ var = sum_of_channels(z * z) / block.count - mean * mean
variance: tiles combined without the shift of their means
- m2 = tl.sum(squares, axis=1) - sum_ * sum_ / count
+ m2 = tl.sum(squares, axis=1)
statistics: the last span is left out
- (others < spans)
+ (others < spans - 1)
@ ops/norm_act/tile.py test_adain.py
stride: every sample takes the style of the first
- group * operands.scale_stride
+ group * 0
@ layout.py test_bias_act.py bias_act
layout: any strides are read as if contiguous
- return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()
+ return x
@ ops/bias_act.py
layout: the incoming gradient keeps a layout of its own
- dense(g, like=y)
+ dense(g)
channel: the bias of the neighbor
- ptr + row % channels
+ ptr + (row + 1) % channels
@ ops/norm_act/backward.py test_adain.py
sign: of the projection in the first gradient
- g -= over_pixels(mean_g) + deviation
+ g -= over_pixels(mean_g) - deviation
@ activation.py test_bias_act.py bias_act
sign: the slope where the output is exactly 0
- g = tl.where(y > 0, g,
+ g = tl.where(y >= 0, g,
@ precision.py test_bias_act.py bias_act
dtype: float64 computed in float32
- return tl.float64 if storage == torch.float64 else tl.float32
+ return tl.float32
dtype: sums of gradients stored in half precision
- return torch.float64 if storage == torch.float64 else torch.float32
+ return storage
@ ops/bias_act.py
dtype: constants rounded to float32
- tl.full((), GAIN, COMPUTE)
+ tl.full((), GAIN, tl.float32)
clamp: compared before it is rounded to the type of x
- SLOPE=slope, GAIN=gain, CLAMP=_round_to(clamp, dtype)
+ SLOPE=slope, GAIN=gain, CLAMP=clamp
@ activation.py test_bias_act.py bias_act
NaN: stopped by the activation
- y = tl.where(y <= 0, 0.0, y)
+ y = tl.where(y > 0, y, 0.0)
@ ops/bias_act.py
second order: no path through the bias gradient
- _bias_act_backward(g, b,
+ _bias_act_backward(g, None,
@ ops/norm_act/backward.py test_style_epilogue.py
mask: lanes past the end enter the gradients of bias and strength
- dx = tl.where(tile.mask, dx, 0.0)
+ dx = dx
@ ops/norm_act/tile.py test_style_epilogue.py
tutorial's order: the sign of the activation's input without the shift
- over_pixels(scale * rstd) + over_pixels(shift)
+ over_pixels(scale * rstd)
@ ops/style_epilogue.py test_style_epilogue.py
noise: the backward pass draws another
- needs_x, needs_scale, needs_shift, needs_noise, *needs_before = needs
+ needs_x, needs_scale, needs_shift, needs_noise, *needs_before = needs; seed = None if seed is None else seed + 1
noise: its gradient summed from rounded values
- before, wide=needs_noise
+ before, wide=False
second order: the strength's gradient without the noise's cotangent
- needs_strength and vnoise is not None
+ False
@ ops/bias_act.py
output mask: a gradient that is not needed
- dx = torch.empty_like(like) if needs_dx else None
+ dx = torch.empty_like(like)
@ ops/minibatch_stddev.py
output mask: the second gradient of a constant dy
- needs_dy = ctx.needs_input_grad[0]
+ needs_dy = True
@ ops/norm_act/backward.py test_every_op.py adain
output mask: the gradient of a constant scale
- of_affine = [x.new_empty(shape, dtype=dtype) if need else None for
+ of_affine = [x.new_empty(shape, dtype=dtype) for
@ autograd.py test_bias_act.py bias_act
compile: the eager route inside a compiled region
- if torch.compiler.is_compiling() or _route.registered:
+ if _route.registered:
compile: a recorded compiled backward is not refused
- return recorded and
+ return False and
@ ops/minibatch_discrimination.py
pairs: no gradient through the outputs of the other samples
- (g_i + _load(g_ptr, row_j, exists_j, COMPUTE)) * w
+ g_i * w
pairs: a tie has a sign
- (x > 0)
+ (x >= 0)
pairs: the distance is that of the first chunk of components
- for start in range(0, components, BLOCK[2]):
+ for start in range(0, BLOCK[2], BLOCK[2]):
@ ops/minibatch_discrimination.py test_huge.py
pairs: rows of samples counted in 32 bits
- j * kernels.to(tl.int64)
+ j * kernels
@ ops/gradient_penalty.py
penalty: a norm of zero divides
- return tl.where(zero, 0.0, 1.0 / tl.where(zero, 1.0, norm))
+ return 1.0 / norm
penalty: norms below the target are not free
- excess = tl.where(excess <= 0, 0.0, excess)
+ excess = excess
penalty: no curvature
- along = (curvature - across) *
+ along = -across *
penalty: rows past the end of the last block count as norms of zero
- tl.where(exists, excess, 0.0)
+ excess
@ ops/interpolate.py
stride: shares with strides of their own are read as neighbors
- alpha_ptr + tile.row * stride
+ alpha_ptr + tile.row
sum: the share has the gradient of its last tile alone
- return dreal, dfake, None if partials is None else sum_partials(partials)
+ return dreal, dfake, None if partials is None else partials[0, :, -1].clone()
second order: cotangents of the images exchange their shares
- _interpolate_double_backward(g, u, w, alpha
+ _interpolate_double_backward(g, w, u, alpha
saved: the images although no gradient needs them
- if ctx.needs_input_grad[2] else ()
+ if True else ()
@ ops/noise_injection.py
noise: the counter starts anew in every sample
- counter = sample * pixels + first
+ counter = first
@ noise.py test_noise.py
noise: a counter of 32 bits
- tl.load(seed_ptr), counter)
+ tl.load(seed_ptr), counter.to(tl.int32))
noise: one seed for every call
- torch.randint(2**63 - 1,
+ torch.randint(1,
@ ops/noise_injection.py
noise: the backward pass draws anew
- seed if needs_strength else None,
+ draw_seed(strength) if needs_strength else None,
noise: the first channel of a tile takes the sums of all
- (channel[:, None] + thread)
+ (tile * BLOCK_CHANNELS + thread)
noise: the second order takes the strength for its cotangent
- _noise_injection_backward(g, a, b, None,
+ _noise_injection_backward(g, strength, b, None,
@ ops/minibatch_stddev.py
stddev: the members of a group are neighbors
- member.to(tl.int64) * place.groups + place.group
+ place.group.to(tl.int64) * MEMBERS + member
stddev: members that a group does not have enter its variance
- tl.where(mask, z - mean[None, :, :], 0.0)
+ z - mean[None, :, :]
stddev: the first gradient forgets to divide by the members
- (features.to(COMPUTE) * MEMBERS)
+ features.to(COMPUTE)
stddev: the second order without the mean of its cotangent
- (w - mean_v[None, :, :] - xh
+ (w - xh
@ ops/pixel_norm.py
pixel norm: divided by the tile, not by the channels
- shape[1].to(COMPUTE)
+ tl.full((), values.shape[1], COMPUTE)
pixel norm: the mean square is a constant to the first gradient
- (v - x * (r * b)) * r
+ (v + 0 * x) * r
pixel norm: chunks of channels from the first one only
- channel = start + tl.arange
+ channel = 0 * start + tl.arange
pixel norm: the second order without the derivative of the projection
- (mean_gv - 3 * a * b)
+ (mean_gv - a * b)
@ ops/spectral/normalize.py test_spectral_norm.py
spectral norm: a channels-last weight takes v in the order of memory
- (col if GIVEN else place)
+ place
@ ops/spectral/power_iteration.py test_spectral_norm.py
spectral norm: the first chunk of a column is its sum
- for start in range(0, chunks, BLOCK_CHUNKS):
+ for start in range(0, 1):
spectral norm: sigma without eps
- norm / divisor * norm
+ norm
@ ops/spectral/normalize.py test_spectral_norm.py
spectral norm: u and v are not copied for backward
- mask=exists & (item.tile == 0)
+ mask=exists & (item.tile < 0)
@ ops/spectral/pointers.py test_spectral_norm.py
spectral norm: pointers of weights that have moved
- *map(Tensor.data_ptr, tensors),
+ *[t.shape for t in tensors],
@ ops/spectral/normalize.py test_spectral_norm.py
spectral norm: the second order without the part of <H, dy>
- gw * alpha + gw * alpha + hg * inverse
+ gw * alpha + gw * alpha
@ ops/spectral/power_iteration.py test_spectral_norm.py
spectral norm: the version counters of u and v stand still
- torch.autograd.graph.increment_version([*us, *vs])
+ pass
@ ops/upfirdn2d.py
resampling: the kernel is not turned around
- (TAPS - 1 - a if FLIP else a)
+ a
resampling: the gradient by the kernel as it is
- ctx.gain, not ctx.flip)
+ ctx.gain, ctx.flip)
resampling: turns that come before the first one are left out
- tl.range(turns + LEAD)
+ tl.range(turns)
resampling: a lower strip counts its rows from the top of the image
- tl.minimum(top, 0) + (FIRST
+ top + (FIRST
resampling: a turn forgets what its rows add to the next one
- sums = sums[ROWS * PHASES :]
+ sums = (zero,) * (OPEN * PHASES)
mask: the end of the row above enters the first windows
- tl.where((place >= 0) & (place < width)
+ tl.where((place < width)
@ ops/filtered_lrelu.py
resampling: parts of the middle count the columns between them twice
- (mid_col < part_end)
+ (mid_col < mid_w)
resampling: parts start at the first column of the tile
- tl.range(first_mid, mid_end, mid_step,
+ tl.range(first_mid, first_mid + 1, mid_step,
@ ops/norm_act/forward.py test_norm_act.py norm_act
norm_act: the running variance is the biased one
- var * (block.count / (block.count - 1)) - before
+ var - before
norm_act: spans combined without the shift of their means
- m2s + delta * delta * counts
+ m2s
norm_act: the first tile of a span is not normalized
- - 1, span * tiles - 1, -1):
+ - 1, span * tiles, -1):
@ ops/norm_act/tile.py test_norm_act.py norm_act
norm_act: channels-last, the pixels of the first sample only
- samples, pixels = 1, samples * pixels
+ samples, pixels = 1, pixels
@ ops/norm_act/double_backward.py test_norm_act.py norm_act
norm_act: the second order without what comes by way of 1/std
- rstd * scale * (mean_vg - 2 *
+ rstd * scale * (-2 *
@ ops/norm_act/backward.py test_norm_act.py norm_act
norm_act: sums of spans of deviations, without 1/std
- lanes_gxh * rstd)
+ lanes_gxh)
norm_act: samples without the scales of their own in the projection
- sum_g, sum_gxh, factor = scale * sum_g, scale * sum_gxh, rstd
+ sum_g, sum_gxh, factor = sum_g, sum_gxh, rstd
@ tiling.py test_upfirdn2d.py
traffic: strips of one turn
- range(1, min(32, row_groups) + 1)
+ range(1, 2)
@ ops/norm_act/tile.py test_compiled.py
broadcast: the number of a single plane goes through shared memory
- if of_planes.shape[0] * of_planes.shape[1] == 1:
+ if of_planes.shape[0] == 0:
@ tiling.py test_compiled.py
width: nothing is known of the start of a row
- return math.gcd(cols, 16)
+ return 1
@ layout.py test_huge.py
addresses: 32 bits
- row = row_tile.to(tl.int64) * BLOCK_ROWS
+ row = row_tile * BLOCK_ROWS
@ tiling.py test_traffic.py
traffic: planes of 16K elements read twice
- else 16384) if element_size <= 4
+ else 8192) if element_size <= 4
"""


def breaks() -> Iterator[Break]:
    file, what, old, noticed_by = "", "", "", [""]
    for line in EDITS.splitlines():
        if line.startswith("@ "):
            file, *noticed_by = line[2:].split()
            op = Path(file).stem
            noticed_by = noticed_by or [f"test_{op}.py", op]
        elif line.startswith("- "):
            old = line[2:]
        elif line.startswith("+"):
            yield Break(what, file, old, line[2:], noticed_by)
        else:
            what = line


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
        tests = [f"tests/kernels/{name}" for name in break_.noticed_by if name.endswith(".py")]
        for op in break_.noticed_by[len(tests) :]:
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
    chosen = [break_ for break_ in breaks() if not wanted or any(w in break_.what for w in wanted)]
    if chosen:
        # A process that has been on a GPU cannot be forked.
        os.environ.update({"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
        import hypothesis  # noqa: F401
        import torch._dynamo  # noqa: F401
        import triton.language  # noqa: F401
    unnoticed = 0
    print("| break | first test that fails | tier |\n| --- | --- | --- |")
    for break_ in chosen:
        found = ((first_failure(break_, tier), tier) for tier in TIERS)
        test, tier = next((pair for pair in found if pair[0]), (None, ""))
        unnoticed += test is None
        print(f"| {break_.what} | {f'`{test}`' if test else '**nothing**'} | {tier} |", flush=True)
    return int(unnoticed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
