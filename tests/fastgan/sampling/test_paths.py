import pytest
import torch

from fastgan.sampling import SamplingError, along_dimension, draw_latents, linear, spherical

A, B = draw_latents(6, 50, seed=0).chunk(2)
UNIT_A, UNIT_B = (v.double() / v.double().norm(dim=1, keepdim=True) for v in (A, B))


@pytest.mark.parametrize("way", [linear, spherical])
@pytest.mark.parametrize("frames", [2, 3, 8])
def test_a_path_has_the_given_ends(way, frames):
    path = way(A, B, frames)
    assert path.shape == (3, frames, 50)
    assert path.dtype == torch.float32
    # float64 to float32 rounds once.
    torch.testing.assert_close(path[:, 0], A, rtol=torch.finfo(torch.float32).eps, atol=0)
    torch.testing.assert_close(path[:, -1], B, rtol=torch.finfo(torch.float32).eps, atol=0)


def test_the_middle_of_a_straight_line_is_the_mean_and_nearer_to_the_origin():
    middle = linear(A, B, 3)[:, 1]
    torch.testing.assert_close(middle, (A + B) / 2)
    assert (linear(UNIT_A, UNIT_B, 3)[:, 1].norm(dim=1) < 0.8).all()


def test_an_arc_between_latents_of_one_length_keeps_it_and_turns_evenly():
    path = spherical(UNIT_A, UNIT_B, 6)
    # Two products of a sine and a quotient, each right to a few units in the last place.
    torch.testing.assert_close(path.norm(dim=2), torch.ones(3, 6, dtype=torch.float64), rtol=0, atol=1e-14)
    turns = torch.linalg.vecdot(path[:, 1:], path[:, :-1]).acos()
    whole = torch.linalg.vecdot(UNIT_A, UNIT_B).acos()
    # The arc cosine near 1 has sqrt(eps) left.
    torch.testing.assert_close(turns, (whole / 5)[:, None].expand(-1, 5), rtol=0, atol=1e-7)


def test_equal_and_nearly_equal_latents_have_a_path_and_opposite_ones_are_refused():
    assert torch.equal(spherical(A, A, 4), A[:, None].expand(-1, 4, -1))
    near = A * (1 + 1e-7)
    assert spherical(A, near, 4).isfinite().all()
    with pytest.raises(SamplingError, match="two latents point in opposite directions"):
        spherical(A, -A, 4)


def test_a_walk_changes_only_one_dimension():
    values = torch.tensor([-2.0, 0.0, 1.5])
    path = along_dimension(A, 7, values)
    assert torch.equal(path[:, :, 7], values.expand(3, -1))
    others = [i for i in range(50) if i != 7]
    assert torch.equal(path[:, :, others], A[:, None, others].expand(-1, 3, -1))
    assert not torch.equal(A[:, 7], torch.zeros(3))  # the latents that came in are as they were
