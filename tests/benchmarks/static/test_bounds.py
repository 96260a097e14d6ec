"""What is read from machine code, and the bound that is computed from it: on code, grids and tensors made up for it."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.chips import CHIPS
from benchmarks.static.bodies import Body, bodies
from benchmarks.static.bounds import bound
from benchmarks.static.launches import Launch


def sass(*instructions: str) -> str:
    return "".join(f"        /*{16 * i:04x}*/   {text} ;   /* 0x0 */\n" for i, text in enumerate(instructions))


def test_loads_are_in_flight_until_one_of_them_is_needed():
    outside, loops = bodies(
        sass(
            *("LDG.E.128 R4, desc[UR4][R2.64]", "@P0 LDG.E.64 R8, desc[UR4][R2.64+0x10]", "FADD R1, R2, R3"),
            # The second is needed, so the first has come too; the third of them is still on its way.
            *("@!P0 LDG.E.U16 R10, desc[UR4][R2.64]", "FADD R1, R9, R3", "LDG.E R12, desc[UR4][R2.64]"),
            *("STG.E.128 desc[UR4][R2.64], R4", "EXIT", "BRA 0x80", "NOP"),
        )
    )
    assert loops == []
    assert outside == Body(9, 3, 26, 30, 16, 0, 0, False)


def test_a_loop_that_loads_ahead_has_more_in_flight_than_it_loads_at_a_time():
    def loop(*body: str) -> Body:
        _, (found,) = bodies(sass("MOV R1, R2", *body, "@P0 BRA 0x10", "EXIT"))
        return found

    one = loop("LDG.E.128 R4, desc[UR4][R2.64]", "FADD R1, R4, R1")
    ahead = loop(
        "FADD R1, R4, R1", "LDG.E.128 R4, desc[UR4][R2.64]", "LDG.E.128 R8, desc[UR4][R2.64]", "FADD R1, R4, R8"
    )
    assert (one.instructions, one.loads_in_flight, one.bytes_in_flight) == (3, 1, 16)
    assert (ahead.loads_in_flight, ahead.loaded) == (2, 32)
    # Copies to shared memory: two groups stay in flight.
    copies = loop("LDGSTS.E.128 [R1], desc[UR4][R2.64]", "LDGDEPBAR", "DEPBAR.LE SB0, 0x2", "LDS.128 R4, [R1]")
    assert (copies.bytes_in_flight, copies.loaded, copies.shared_stored) == (32, 16, 0)


def test_amd_waits_for_all_but_the_last_accesses():
    text = """
\tbuffer_load_dwordx4 v[0:3], v9, s[0:3], 0 offen
.LBB0_1:
\tglobal_load_dwordx2 v[4:5], v[8:9], off
\tbuffer_load_ushort v6, v9, s[0:3], 0 offen
\tglobal_store_dword v[8:9], v7, off
\ts_waitcnt vmcnt(2)
\tds_write2_b64 v1, v[2:3], v[4:5] offset1:8
\ts_waitcnt lgkmcnt(0) vmcnt(0)
\ts_barrier
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
"""
    outside, (loop,) = bodies(text, amd=True)
    assert (outside.instructions, outside.loaded) == (2, 16)
    assert loop == Body(8, 2, 10, 10, 4, 16, 1, False)


@pytest.mark.parametrize(
    ("code", "converts"),
    [
        (["LDG.E.128 R4, desc[UR4][R2.64]", "STS.128 [R1], R4"], True),
        (["LDG.E.128 R4, desc[UR4][R2.64]", "STS.128 [R1], R4", "HMMA.16816.F32 R8, R4, R6, R8"], False),
        (["LDG.E.128 R4, desc[UR4][R2.64]", "LDG.E.128 R8, desc[UR4][R2.64]", "@P1 STS [R1], R4"], False),
    ],
    ids=["conversion", "operand of a dot", "sum of a row"],
)
def test_data_that_passes_through_shared_memory_is_seen(code: list[str], converts: bool):
    _, (loop,) = bodies(sass(*code, "@P0 BRA 0x0", "EXIT"))
    assert loop.converts == converts


def launch(programs: int, megabytes: int) -> Launch:
    """256 threads a program, a tensor that is read and one that is written."""
    of = SimpleNamespace(threads=256, options={"num_warps": 8}, kernel="kernel")
    x, y = (torch.empty(megabytes << 18, device="meta") for _ in range(2))
    return Launch(of, programs, {"x_ptr": [x], "y_ptr": [y]})


CODE = SimpleNamespace(registers=32, shared_bytes=0, shared_stores=0, accessed={"load": {"x_ptr"}, "store": {"y_ptr"}})
COPYING = Body(100, 4, 64, 64, 64, 0, 0, False)
LOOPING = Body(20, 1, 16, 16, 16, 0, 0, False)
NOTHING = Body(50, 0, 0, 0, 0, 0, 0, False)


def test_a_grid_that_fills_the_chip_reaches_the_speed_of_a_copy():
    # 64 bytes for each of 256 threads, and eight programs on each of 132 multiprocessors: 131 KB.
    found = bound(CHIPS["H200"], launch(8 * 132 * 10, 165), CODE, COPYING, [], 0.5)
    assert (found.resident, found.warps, found.loads) == (8, 64, 4)
    assert (found.waves, found.tail, found.share) == (10, 1, 1)
    assert found.in_flight == pytest.approx(8 * 64 * 256, rel=0.01)
    assert found.instructions == pytest.approx(100 / 8, rel=0.01)
    assert found.broken() == []


def test_what_a_grid_cannot_reach_is_said():
    few = bound(CHIPS["H200"], launch(66, 64), CODE, NOTHING, [LOOPING], 1.5)
    # 4 KB in flight for half of the multiprocessors.
    assert few.in_flight == pytest.approx(2048)
    assert few.share == pytest.approx(2048 / 25455, rel=1e-3)
    assert few.broken() == [
        "has 2.0 KB in flight, expected at least 25",
        "takes 1.5 CPU seconds to compile, expected at most 1",
    ]
    tail = bound(CHIPS["H200"], launch(8 * 132 + 1, 64), CODE, COPYING, [], 0.5)
    assert tail.broken() == ["fills 50% of 1.0 waves, expected at least 70%"]
    assert tail.share == pytest.approx(0.5, rel=0.01)
    small = bound(CHIPS["H200"], launch(66, 3), CODE, NOTHING, [LOOPING], 0.5)
    assert small.broken() == []


def test_what_a_launch_only_writes_waits_for_no_loads():
    filling = launch(66, 64)
    filling.tensors["x_ptr"][0] = filling.tensors["x_ptr"][0][:4]
    assert bound(CHIPS["H200"], filling, CODE, Body(50, 1, 4, 4, 64, 0, 0, False), [], 0.5).share == 1


def test_more_instructions_than_a_chip_issues_bound_it_too():
    # 132 multiprocessors issue 128 a cycle of 1.98 GHz: 33.5e12 a second, and 16 bytes take 3.33e-12 seconds.
    slow = bound(CHIPS["H200"], launch(8 * 132 * 10, 165), CODE, Body(1000, 4, 64, 64, 64, 0, 0, False), [], 0.5)
    assert slow.instructions == pytest.approx(125, rel=0.01)
    assert slow.share == pytest.approx(33.45 / (4.8 / 16 * 125), rel=0.01)
