"""What the machine code of a kernel does per thread, inside its innermost loops and outside of them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

_SASS = re.compile(r"/\*([0-9a-f]{4,})\*/ +(?:@!?U?P\w+ +)?([A-Z]\w*)([\w.]*) *([^;]*);")
_SASS_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_AMD = re.compile(r"^(?:\t([a-z]\w+)[ \t]*([^;\n]*)|(\.?\w+):)", re.MULTILINE)
_AMD_SHARED = re.compile(r"ds_write(2)?\w*?_b(\d+)")
AMD_ACCESS = re.compile(r"(?:buffer|global|flat)_(load|store)_(dwordx?|[us]?byte|[us]?short)(\d)?")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        kind: ``load`` and ``store`` (of global memory), ``shared_store``, ``copy`` (from global to shared memory),
            ``barrier``, ``dot``, ``branch``, or empty; NVIDIA's ``commit`` and ``wait`` of copies; AMD's ``drain``.
        bytes: of the access.
        operands: the registers that are named, or for a load those that it writes.
        number: the address that a branch jumps to, or how many accesses a wait leaves in flight.
    """

    kind: str
    bytes: int = 0
    operands: frozenset[int] = frozenset()
    number: int = -1


@dataclass(frozen=True)
class Body:
    """Counts per thread of a loop's body, or of the code outside of loops.

    Attributes:
        loads_in_flight, bytes_in_flight: the most loads of global memory, and bytes, that a thread has issued before an
            instruction needs the first of them.
        loaded, stored: bytes of global memory.
        shared_stored: bytes stored to shared memory.
    """

    instructions: int
    loads_in_flight: int
    bytes_in_flight: int
    loaded: int
    stored: int
    shared_stored: int
    barriers: int
    has_dot: bool

    @property
    def converts(self) -> bool:
        """Whether its data passes through shared memory, not for a dot; a reduction stores far less than it loads."""
        return not self.has_dot and 4 * self.shared_stored >= max(self.loaded, self.stored) > 0


def bodies(assembly: str, *, amd: bool = False) -> tuple[Body, list[Body]]:
    """The code outside of the innermost loops, and each of these loops; of SASS, or of AMD's assembly."""
    code = dict(enumerate(_amd(assembly))) if amd else dict(_sass(assembly))
    spans = [(i.number, place) for place, i in code.items() if i.kind == "branch" and i.number < place]
    inner = [s for s in spans if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    looped = [[i for place, i in code.items() if first <= place <= last] for first, last in inner]
    rest = [i for place, i in code.items() if not any(first <= place <= last for first, last in inner)]
    return _body(rest), [_body(loop, rounds=2) for loop in looped]


def _body(code: Sequence[Instruction], *, rounds: int = 1) -> Body:
    def total(*kinds: str) -> int:
        return sum(i.bytes for i in code if i.kind in kinds)

    loads, in_flight = max(_in_flight([*code] * rounds), key=lambda both: both[1], default=(0, 0))
    kinds = [i.kind for i in code if i.kind != "label"]
    return Body(
        *(len(kinds), loads, in_flight, total("load", "copy"), total("store"), total("shared_store")),
        *(kinds.count("barrier"), "dot" in kinds),
    )


def _in_flight(code: Iterable[Instruction]) -> Iterator[tuple[int, int]]:
    """The number and bytes of loads in flight after each instruction; memory answers in the order of the requests."""
    flying: list[Instruction] = []
    copies: list[list[Instruction]] = [[]]  # by group; the last one is open
    for i in code:
        if i.kind == "load":
            # A load into a register that another one loads is on another path.
            flying = [other for other in flying if not other.operands & i.operands]
            flying.append(i)
        elif i.kind == "store" and not i.operands:  # AMD waits for accesses by their number, stores among them
            flying.append(replace(i, bytes=0))
        elif i.kind == "drain":
            flying = flying[len(flying) - i.number :] if i.number < len(flying) else flying
        elif i.kind == "copy":
            copies[-1].append(i)
        elif i.kind == "commit":
            copies.append([])
        elif i.kind == "wait":
            copies = copies[max(0, len(copies) - 1 - i.number) :]
        else:
            needed = [place for place, other in enumerate(flying) if other.operands & i.operands]
            flying = flying[max(needed) + 1 :] if needed else flying
        asked = [*flying, *(copy for group in copies for copy in group)]
        yield sum(other.bytes > 0 for other in asked), sum(other.bytes for other in asked)


def _sass(text: str) -> Iterator[tuple[int, Instruction]]:
    for place, name, suffixes, operands in _SASS.findall(text):
        if name == "NOP":
            continue
        width = next((_SASS_WIDTHS[s] for s in suffixes.split(".") if s in _SASS_WIDTHS), 4)
        registers = [int(r) for r in re.findall(r"\bR(\d+)\b", operands)]
        if name == "BRA" and (target := re.search(r"0x([0-9a-f]+)", operands)):
            found = Instruction("branch", number=int(target[1], 16))
        elif name in ("LDG", "LD"):
            found = Instruction("load", width, frozenset(range(registers[0], registers[0] + max(1, width // 4))))
        elif name == "DEPBAR":
            found = Instruction("wait", number=int(operands.rsplit(",", 1)[-1].strip(), 16))
        else:
            kinds = {"STG": "store", "ST": "store", "STS": "shared_store", "LDGSTS": "copy", "BAR": "barrier"}
            kind = "dot" if "MMA" in name else "commit" if name == "LDGDEPBAR" else kinds.get(name, "")
            found = Instruction(kind, width, frozenset(registers))
        yield int(place, 16), found


def _amd(text: str) -> Iterator[Instruction]:
    # A label is an instruction of its own, so that a branch finds it; it is not counted.
    labels: dict[str, int] = {}
    for place, (name, operands, label) in enumerate(found.groups() for found in _AMD.finditer(text)):
        if label:
            labels[label] = place
            yield Instruction("label")
        elif access := AMD_ACCESS.match(name):
            yield Instruction(access[1], amd_width(access[2], access[3]))
        elif name.startswith(("s_branch", "s_cbranch")):
            yield Instruction("branch", number=labels.get(operands.strip(), place))
        elif name == "s_waitcnt":
            left = re.search(r"vmcnt\((\d+)\)", operands)
            yield Instruction("drain" if left else "", number=int(left[1]) if left else -1)
        else:
            width = _AMD_SHARED.match(name)
            kind = "dot" if name.startswith("v_mfma") else "barrier" if name == "s_barrier" else ""
            yield Instruction("shared_store", int(width[2]) // 8 * (1 + bool(width[1]))) if width else Instruction(kind)


def amd_width(unit: str, count: str | None) -> int:
    """Bytes of an access: ``dwordx`` and ``4`` are 16."""
    return (4 if unit.startswith("dword") else 2 if "short" in unit else 1) * int(count or 1)
