"""Addresses and their ranges, read from Triton IR."""

import pytest

from fastgan_kernels.inspection.ttir import Access, TritonIR

HEAD = """module {
  tt.func public @kernel(%x_ptr: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc("x_ptr"(#loc)), %y_ptr: !tt.ptr<f32> loc("y_ptr"(#loc)), %rows: i32 loc("rows"(#loc))) attributes {noinline = false} {
"""  # noqa: E501
TAIL = """    tt.return loc(#loc)
  } loc(#loc)
} loc(#loc)
"""


def kernel(*lines: str) -> TritonIR:
    return TritonIR(HEAD + "\n".join(f"    {line} loc(#loc1)" for line in lines) + "\n" + TAIL)


RANGE = "%r = tt.make_range {end = 1024 : i32, start = 0 : i32} : tensor<1024xi32>"
SPLAT = "%p = tt.splat %x_ptr : !tt.ptr<f32> -> tensor<1024x!tt.ptr<f32>>"
LOAD = "%v = tt.load %a : tensor<1024x!tt.ptr<f32>>"


def addressed_by(*lines: str) -> TritonIR:
    """A kernel that loads x at the offsets %o, which the lines compute."""
    address = "%a = tt.addptr %p, %o : tensor<1024x!tt.ptr<f32>>, tensor<1024xi32>"
    return kernel(RANGE, SPLAT, *lines, address, LOAD)


def test_accesses_are_followed_to_their_argument():
    ir = kernel(
        RANGE,
        SPLAT,
        "%a = tt.addptr %p, %r : tensor<1024x!tt.ptr<f32>>, tensor<1024xi32>",
        LOAD,
        "%q = tt.addptr %y_ptr, %rows : !tt.ptr<f32>, i32",
        "tt.store %q, %c : !tt.ptr<f32>",
    )
    assert ir.arguments == ["x_ptr", "y_ptr", "rows"]
    assert ir.accesses == [Access("load", "x_ptr", 1024), Access("store", "y_ptr", 1)]
    assert ir.narrow_offsets == {"x_ptr", "y_ptr"}


def test_a_pointer_carried_through_a_loop_is_followed():
    ir = kernel(
        "%0 = scf.for %i = %c0 to %rows step %c1 iter_args(%p = %x_ptr) -> (!tt.ptr<f32>)  : i32 {",
        "%next = tt.addptr %p, %rows : !tt.ptr<f32>, i32",
        "scf.yield %next : !tt.ptr<f32>",
        "}",
        "%v = tt.load %0 : !tt.ptr<f32>",
    )
    assert ir.accesses == [Access("load", "x_ptr", 1)]


def test_names_that_two_regions_each_define_are_kept_apart():
    """MLIR numbers values anew in each region: the same name may be an address of x in one and of y in the next."""
    ir = kernel(
        "%c0 = arith.constant 0 : i32",
        "%c1 = arith.constant 1 : i32",
        "scf.for %i = %c0 to %rows step %c1  : i32 {",
        "%0 = tt.addptr %x_ptr, %i : !tt.ptr<f32>, i32",
        "%1 = tt.load %0 : !tt.ptr<f32>",
        "}",
        "%more = arith.cmpi eq, %rows, %c1 : i32",
        "scf.if %more {",
        "%0 = tt.addptr %y_ptr, %c1 : !tt.ptr<f32>, i32",
        "%1 = tt.load %0 : !tt.ptr<f32>",
        "}",
    )
    assert ir.accesses == [Access("load", "x_ptr", 1), Access("load", "y_ptr", 1)]


def test_a_pointer_chosen_by_a_branch_has_no_single_argument():
    ir = kernel(
        "%0 = scf.if %c -> (!tt.ptr<f32>) {",
        "scf.yield %x_ptr : !tt.ptr<f32>",
        "} else {",
        "scf.yield %y_ptr : !tt.ptr<f32>",
        "}",
        "%v = tt.load %0 : !tt.ptr<f32>",
    )
    with pytest.raises(ValueError, match=r"comes from \['x_ptr', 'y_ptr'\], expected one argument"):
        _ = ir.accesses


def test_unknown_control_flow_is_refused():
    with pytest.raises(ValueError, match=r"cannot follow cf\.cond_br"):
        kernel("cf.cond_br %c, ^bb1, ^bb2")


ADD_ROWS = ["%s = tt.splat %rows : i32 -> tensor<1024xi32>", "%o = arith.addi %s, %r : tensor<1024xi32>"]
TIMES_ROWS = ["%s = tt.splat %rows : i32 -> tensor<1024xi32>", "%o = arith.muli %s, %r : tensor<1024xi32>"]


@pytest.mark.parametrize(
    ("lines", "rows", "overflows"),
    [
        (ADD_ROWS, 2**31 - 1024, False),
        (ADD_ROWS, 2**31 - 1023, True),
        (TIMES_ROWS, (2**31 - 1) // 1023, False),
        (TIMES_ROWS, (2**31 - 1) // 1023 + 1, True),
        (TIMES_ROWS, -(2**31) // 1023, True),
        (["%c = arith.constant dense<21> : tensor<1024xi32>", "%o = arith.shli %r, %c : tensor<1024xi32>"], 1, False),
        (["%c = arith.constant dense<22> : tensor<1024xi32>", "%o = arith.shli %r, %c : tensor<1024xi32>"], 1, True),
    ],
)
def test_overflow_begins_where_the_largest_index_leaves_32_bits(lines, rows, overflows):
    assert bool(addressed_by(*lines).overflows({"rows": rows}, (1,))) == overflows


@pytest.mark.parametrize(("programs", "overflows"), [(2**21, False), (2**21 + 1, True)])
def test_the_grid_bounds_the_program(programs, overflows):
    ir = addressed_by(
        "%pid = tt.get_program_id x : i32",
        "%c1024 = arith.constant 1024 : i32",
        "%b = arith.muli %pid, %c1024 : i32",
        "%s = tt.splat %b : i32 -> tensor<1024xi32>",
        "%o = arith.addi %s, %r : tensor<1024xi32>",
    )
    assert bool(ir.overflows({"rows": 1}, (programs,))) == overflows


def test_division_and_remainder_bring_an_index_back():
    ir = addressed_by(
        "%pid = tt.get_program_id x : i32",
        "%q = arith.divsi %pid, %rows : i32",
        "%m = arith.remsi %pid, %rows : i32",
        "%t = arith.addi %q, %m : i32",
        "%c = arith.constant 1048576 : i32",
        "%b = arith.muli %t, %c : i32",
        "%s = tt.splat %b : i32 -> tensor<1024xi32>",
        "%o = arith.addi %s, %r : tensor<1024xi32>",
    )
    # At most 2^20 / 2^10 + 2^10 - 1 = 2047 blocks of 2^20; with two more rows of programs, 2049.
    assert not ir.overflows({"rows": 2**10}, (2**20,))
    assert ir.overflows({"rows": 2**10}, (2**20 + 2 * 2**10,))


def test_arithmetic_that_feeds_no_address_may_wrap_around():
    ir = kernel("%big = arith.constant 65536 : i32", "%hash = arith.muli %big, %big : i32")
    assert not ir.overflows({"rows": 1}, (1,))


def test_an_index_from_memory_may_be_anything():
    ir = kernel(
        "%i = tt.load %table : !tt.ptr<i32>",
        "%one = arith.constant 1 : i32",
        "%o = arith.addi %i, %one : i32",
        "%a = tt.addptr %x_ptr, %o : !tt.ptr<f32>, i32",
        "%v = tt.load %a : !tt.ptr<f32>",
    )
    assert ir.overflows({"rows": 1}, (1,))


def test_a_pointer_from_a_table_belongs_to_the_table():
    ir = kernel(
        RANGE,
        "%t = tt.addptr %x_ptr, %rows : !tt.ptr<f32>, i32",
        "%l = tt.load %t : !tt.ptr<i64>",
        "%q = tt.int_to_ptr %l {tt.divisibility = dense<16> : tensor<1xi32>} : i64 -> !tt.ptr<f32>",
        "%p = tt.splat %q : !tt.ptr<f32> -> tensor<1024x!tt.ptr<f32>>",
        "%a = tt.addptr %p, %r : tensor<1024x!tt.ptr<f32>>, tensor<1024xi32>",
        LOAD,
        "tt.store %y_ptr, %c : !tt.ptr<f32>",
    )
    assert ir.accesses == [Access("load", "x_ptr", 1), Access("load", "*x_ptr", 1024), Access("store", "y_ptr", 1)]
    assert ir.narrow_offsets == {"x_ptr", "*x_ptr"}


def test_a_pointer_that_was_computed_is_refused():
    ir = kernel(
        "%l = tt.ptr_to_int %x_ptr : !tt.ptr<f32> -> i64",
        "%q = tt.int_to_ptr %l : i64 -> !tt.ptr<f32>",
        "%v = tt.load %q : !tt.ptr<f32>",
    )
    with pytest.raises(ValueError, match="expected a pointer from a table"):
        _ = ir.accesses


def promised(*conditions: str, value: str = "%i = tt.load %y_ptr : !tt.ptr<i32>") -> bool:
    """Whether 1024 * %i as an index of x can leave 32 bits, under conditions on %i that the kernel promises."""
    ir = addressed_by(
        value,
        "%zero = arith.constant 0 : i32",
        "%most = arith.constant 2097151 : i32",
        "%limit = arith.constant 2097152 : i32",
        *conditions,
        "%c1024 = arith.constant 1024 : i32",
        "%b = arith.muli %i, %c1024 : i32",
        "%s = tt.splat %b : i32 -> tensor<1024xi32>",
        "%o = arith.addi %s, %r : tensor<1024xi32>",
    )
    return bool(ir.overflows({"rows": 1}, (1,)))


LEAST, MOST = "%g = arith.cmpi sge, %i, %zero : i32", "%h = arith.cmpi sle, %i, %most : i32"
BELOW = "%h = arith.cmpi slt, %i, %limit : i32"


@pytest.mark.parametrize("most", [MOST, BELOW])
def test_a_promise_bounds_an_index_from_memory(most):
    assert promised()
    assert not promised(LEAST, most, "llvm.intr.assume %g : i1", "llvm.intr.assume %h : i1")
    assert not promised(LEAST, most, "%both = arith.andi %g, %h : i1", "llvm.intr.assume %both : i1")


def test_half_a_promise_is_none():
    assert promised(LEAST, "llvm.intr.assume %g : i1")
    assert promised(MOST, "llvm.intr.assume %h : i1")
    assert promised(LEAST, MOST)  # compared, not promised
    either = "%either = arith.ori %g, %h : i1"
    assert promised(LEAST, MOST, either, "llvm.intr.assume %either : i1")


def test_a_promise_does_not_excuse_arithmetic():
    grid = "%i = arith.muli %rows, %rows : i32"
    assumed = "llvm.intr.assume %g : i1", "llvm.intr.assume %h : i1"
    ir = addressed_by(
        grid,
        "%zero = arith.constant 0 : i32",
        "%most = arith.constant 2097151 : i32",
        LEAST,
        MOST,
        *assumed,
        "%s = tt.splat %i : i32 -> tensor<1024xi32>",
        "%o = arith.addi %s, %r : tensor<1024xi32>",
    )
    assert ir.overflows({"rows": 2**17}, (1,))
