"""Global accesses, read from the LLVM IR of both vendors."""

import pytest

from fastgan_kernels.inspection.llir import GlobalAccess, global_accesses

NVIDIA = (
    "define ptx_kernel void @kernel(ptr addrspace(1) %0, ptr addrspace(1) %1, i32 %2) local_unnamed_addr #0 !dbg !4 {"
)
AMD = (
    "define amdgpu_kernel void @kernel(ptr addrspace(1) inreg readonly captures(none) %0, "
    "ptr addrspace(1) inreg writeonly captures(none) %1, i32 inreg %2) local_unnamed_addr #0 !dbg !4 {"
)


def accesses(head: str, *lines: str) -> list[GlobalAccess]:
    return global_accesses("\n".join([head, *(f"  {line}, !dbg !7" for line in lines), "  ret void", "}"]))


@pytest.mark.parametrize(
    ("instruction", "kind", "size"),
    [
        (
            'call { i32, i32, i32, i32 } asm sideeffect "mov.u32 $0, 0x0;\\0A\\09@$5 ld.global.v4.b32 '
            '{ $0, $1, $2, $3 }, [ $4 + 0 ];", "=r,=r,=r,=r,l,b"(ptr addrspace(1) %5, i1 %4)',
            "load",
            16,
        ),
        ('call i16 asm sideeffect "\\09ld.global.b16 { $0 }, [ $1 + 0 ];", "=c,l"(ptr addrspace(1) %5)', "load", 2),
        (
            'call void asm sideeffect "@$3 st.global.L1::evict_first.v2.b64 [ $2 + 0 ], { $0, $1 };", "l,l,l,b"'
            "(i64 %7, i64 %8, ptr addrspace(1) %5, i1 %4)",
            "store",
            16,
        ),
        (
            'call float asm sideeffect "@$3 atom.global.gpu.acq_rel.add.f32 $0, [ $1 + 0 ], $2;", "=r,l,r,b"'
            "(ptr addrspace(1) %5, float %8, i1 %4)",
            "atomic",
            4,
        ),
    ],
)
def test_nvidia_accesses(instruction, kind, size):
    offset = "%5 = getelementptr float, ptr addrspace(1) %1, i64 %6"
    assert accesses(NVIDIA, offset, f"%9 = tail {instruction}") == [GlobalAccess(kind, 1, size)]


@pytest.mark.parametrize(
    ("instruction", "kind", "size"),
    [
        ("%9 = load <4 x float>, ptr addrspace(1) %5, align 16", "load", 16),
        ("store <8 x bfloat> %8, ptr addrspace(1) %5, align 16", "store", 16),
        ("store double %8, ptr addrspace(1) %5, align 8", "store", 8),
        ("store ptr addrspace(1) %0, ptr addrspace(1) %5, align 8", "store", 8),
        ("%9 = tail call half @llvm.amdgcn.raw.ptr.buffer.load.f16(ptr addrspace(8) %6, i32 %7)", "load", 2),
        (
            "tail call void @llvm.amdgcn.raw.ptr.buffer.store.v4i32(<4 x i32> %8, ptr addrspace(8) %6, i32 %7)",
            "store",
            16,
        ),
        ("%9 = atomicrmw fadd ptr addrspace(1) %5, float %8 syncscope(\"agent\") acq_rel", "atomic", 4),
    ],
)  # fmt: skip
def test_amd_accesses(instruction, kind, size):
    resource = "%6 = tail call ptr addrspace(8) @llvm.amdgcn.make.buffer.rsrc.p8.p1(ptr addrspace(1) %1, i16 0)"
    offset = "%5 = getelementptr float, ptr addrspace(1) %1, i64 %4"
    assert accesses(AMD, offset, resource, instruction) == [GlobalAccess(kind, 1, size)]


def test_an_address_is_followed_through_phi_and_select():
    lines = (
        "%5 = phi ptr addrspace(1) [ %0, %3 ], [ %6, %4 ]",
        "%6 = getelementptr float, ptr addrspace(1) %5, i64 4",
        "%7 = select i1 %8, ptr addrspace(1) %5, ptr addrspace(1) %6",
        "%9 = load float, ptr addrspace(1) %7, align 4",
    )
    assert accesses(AMD, *lines) == [GlobalAccess("load", 0, 4)]


def test_an_index_from_memory_does_not_make_its_table_the_address():
    lines = (
        "%5 = load i32, ptr addrspace(1) %0, align 4",
        "%6 = getelementptr float, ptr addrspace(1) %1, i32 %5",
        "store float 0.0, ptr addrspace(1) %6, align 4",
    )
    assert accesses(AMD, *lines) == [GlobalAccess("load", 0, 4), GlobalAccess("store", 1, 4)]


@pytest.mark.parametrize(
    ("head", "lines"),
    [
        (
            AMD,
            (
                "%5 = load <1 x i64>, ptr addrspace(1) %0, align 8",
                "%6 = extractelement <1 x i64> %5, i64 0",
                "%7 = inttoptr i64 %6 to ptr addrspace(1)",
                "%8 = getelementptr float, ptr addrspace(1) %7, i64 %4",
                "store <4 x float> zeroinitializer, ptr addrspace(1) %8, align 16",
            ),
        ),
        (
            NVIDIA,
            (
                '%5 = tail call i64 asm sideeffect "ld.global.b64 { $0 }, [ $1 + 0 ];", "=l,l"(ptr addrspace(1) %0)',
                "%7 = inttoptr i64 %5 to ptr addrspace(1)",
                "%8 = getelementptr float, ptr addrspace(1) %7, i64 %4",
                'tail call void asm sideeffect "@$5 st.global.v4.b32 [ $4 + 0 ], { $0, $1, $2, $3 };", "r,r,r,r,l,b"'
                "(i32 0, i32 0, i32 0, i32 0, ptr addrspace(1) %8, i1 %9)",
            ),
        ),
    ],
)
def test_a_pointer_from_a_table_belongs_to_the_table(head, lines):
    assert accesses(head, *lines) == [GlobalAccess("load", 0, 8), GlobalAccess("store", 0, 16, from_table=True)]


def test_pointers_from_two_tables_are_refused():
    lines = (
        "%5 = load i64, ptr addrspace(1) %0, align 8",
        "%6 = load i64, ptr addrspace(1) %1, align 8",
        "%7 = select i1 %3, i64 %5, i64 %6",
        "%8 = inttoptr i64 %7 to ptr addrspace(1)",
        "%9 = load float, ptr addrspace(1) %8, align 4",
    )
    with pytest.raises(ValueError, match="expected one"):
        accesses(AMD, *lines)


def test_shared_memory_is_not_global():
    assert accesses(NVIDIA, "%5 = load float, ptr addrspace(3) @global_smem, align 4") == []


def test_an_unknown_access_is_refused():
    with pytest.raises(ValueError, match="unknown access to global memory"):
        accesses(NVIDIA, "call void @llvm.memcpy.p1.p1.i64(ptr addrspace(1) %0, ptr addrspace(1) %1, i64 4, i1 false)")


def test_an_address_of_two_arguments_is_refused():
    lines = ("%5 = select i1 %8, ptr addrspace(1) %0, ptr addrspace(1) %1", "%9 = load float, ptr addrspace(1) %5")
    with pytest.raises(ValueError, match="expected one"):
        accesses(AMD, *lines)
