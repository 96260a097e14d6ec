"""What a kernel's Triton IR says of its addresses: which argument, which tile, and whether 32 bits hold the indices."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Literal

Interval = tuple[float, float]

_INDEX_WIDTHS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "index": 64}
_NAME = r"%[\w$.-]+(?:#\d+)?"


@dataclass(frozen=True)
class Operation:
    """One operation: what it defines, from what, with the text between operands and types and the types themselves."""

    results: tuple[str, ...]
    name: str
    operands: tuple[str, ...]
    text: str

    @property
    def result_type(self) -> str:
        """Such as ``tensor<4x8xi64>``, ``i32`` or ``!tt.ptr<f32>``."""
        last = re.split(r" : | -> | to ", self.text)[-1].strip()
        return re.sub(r"!tt\.ptr<(\w+)>", r"\1", last) if self.name == "tt.load" else last


@dataclass(frozen=True)
class Access:
    """A load or store of a tile, by the argument that its address starts from: ``*table_ptr`` for a pointer that the
    kernel loads through ``table_ptr``."""

    kind: Literal["load", "store"]
    argument: str
    elements: int


@dataclass(frozen=True)
class Overflow:
    """A 32-bit value in an address or a mask that can leave its range."""

    operation: Operation
    interval: Interval

    def __str__(self) -> str:
        low, high = self.interval
        variable = re.sub(r"_\d+$", "", self.operation.results[0].removeprefix("%"))
        return f"{variable} ({self.operation.name}) can be {high if high >= 2**31 else low:.0f}"


def _with_unique_names(ttir: str) -> Iterator[str]:
    """The lines of the module without locations; a name that two regions each define is made two names."""
    scopes: list[dict[str, str]] = [{}]
    taken: set[str] = set()

    def define(name: str, scope: dict[str, str]) -> None:
        scope[name] = name
        while scope[name] in taken:
            scope[name] += "$"
        taken.add(scope[name])

    def visible(name: re.Match[str]) -> str:
        return next((scope[name[0]] for scope in reversed(scopes) if name[0] in scope), name[0])

    for line in ttir.splitlines():
        text = re.sub(r" loc\([^()]*(?:\([^()]*\))*[^()]*\)$", "", line.strip())
        if not text or text.startswith("#"):
            continue
        if text.startswith("}"):
            scopes.pop()
        # What a line defines is not yet visible to what it reads; arguments of a region belong to the region.
        result, equals, rest = re.match(r"(%[\w$.-]+)?((?::\d+)? = )?(.*)", text).groups()
        defines = result is not None and equals is not None
        arguments = re.findall(r"(%[\w$.-]+): ", rest) if re.match(r"\^|tt\.func", rest) else []
        arguments += re.findall(r"(%[\w$.-]+) = ", rest) if rest.startswith("scf.for") else []
        read = re.sub(r"%[\w$.-]+(?! = |: )" if arguments else r"%[\w$.-]+", visible, rest)
        if defines:
            define(result, scopes[-1])
            result = scopes[-1][result]
        elif result is not None:
            read, result = re.sub(r"%[\w$.-]+", visible, text), ""
        if text.endswith("{"):
            scopes.append({})
        for argument in arguments:
            define(argument, scopes[-1])
            read = re.sub(rf"{re.escape(argument)}(?= = |: )", scopes[-1][argument], read)
        yield (result or "") + (equals or "") + read


class TritonIR:
    """The kernel of a module in Triton IR.

    Raises:
        ValueError: for control flow other than ``scf.for`` and ``scf.if``.
    """

    def __init__(self, ttir: str) -> None:
        self.arguments: list[str] = []
        self.operations: list[Operation] = []
        self._parse(ttir)
        self._defined_by = {name: op for op in self.operations for name in op.results}

    def _parse(self, ttir: str) -> None:
        open_regions: list[dict] = []
        for text in _with_unique_names(ttir):
            if text.startswith(("module", "^")):
                continue
            if text.startswith("tt.func"):
                self.arguments = re.findall(r"%([\w$.-]+): ", text)
                open_regions.append({"kind": "func"})
                continue
            if text.startswith("}"):
                self._close(text, open_regions)
                continue
            region = self._open(text)
            if region is not None:
                open_regions.append(region)
                continue
            if re.match(r"(scf\.yield|tt\.\w+\.return)\b", text):
                open_regions[-1].setdefault("yields", []).append(re.findall(_NAME, text.split(" : ")[0]))
                continue
            operation = _operation(text)
            if operation.name.startswith("cf.") or operation.name == "tt.call":
                raise ValueError(f"cannot follow {operation.name}: {text}")
            self.operations.append(operation)

    def _open(self, text: str) -> dict | None:
        """The region that ``text`` opens, if it does."""
        head = re.match(r"(?:(%[\w$.-]+)(?::(\d+))? = )?(scf\.\w+|\"?tt\.\w+\"?)", text)
        if not head or not text.endswith("{"):
            return None
        base, count, name = head.groups()
        results = (
            () if base is None else ((base,) if count is None else tuple(f"{base}#{i}" for i in range(int(count))))
        )
        if name == "scf.for":
            loop = re.match(rf".*scf\.for ({_NAME}) = ({_NAME}) to ({_NAME}) step ({_NAME})", text)
            carried = (
                re.findall(rf"({_NAME}) = ({_NAME})", text.split("iter_args(")[1].split(")")[0])
                if "iter_args(" in text
                else []
            )
            types = _split_types(re.search(r"-> \((.*?)\)\s+(?::|\{)", text).group(1)) if carried else []
            self.operations.append(Operation((loop[1],), "loop.index", (loop[2], loop[3], loop[4]), _loop_type(text)))
            return {"kind": "for", "results": results, "carried": carried, "types": types}
        if name == "scf.if":
            types = _split_types(re.search(r"-> \((.*?)\)", text).group(1)) if results else []
            return {"kind": "if", "results": results, "types": types}
        if name.strip('"') in ("tt.reduce", "tt.scan"):
            operands = re.findall(_NAME, text.split("(", 1)[1].split(")")[0])
            return {"kind": "reduce", "results": results, "operands": operands, "name": name.strip('"')}
        raise ValueError(f"cannot follow {name}: {text}")

    def _close(self, text: str, open_regions: list[dict]) -> None:
        if "else" in text:
            return
        if not open_regions:  # the module's
            return
        region = open_regions.pop()
        if region["kind"] == "for":
            yields = region["yields"][0] if region.get("yields") else []
            for (inner, initial), result, type_, yielded in zip(
                region["carried"], region["results"], region["types"], yields, strict=True
            ):
                self.operations.append(Operation((inner,), "phi", (initial, yielded), f" : {type_}"))
                self.operations.append(Operation((result,), "phi", (initial, yielded), f" : {type_}"))
        elif region["kind"] == "if":
            for i, (result, type_) in enumerate(zip(region["results"], region["types"], strict=True)):
                sources = tuple(values[i] for values in region["yields"])
                self.operations.append(Operation((result,), "phi", sources, f" : {type_}"))
        elif region["kind"] == "reduce":
            type_ = text.split("->")[-1].strip(" ()")
            self.operations.append(
                Operation(region["results"], region["name"], tuple(region["operands"]), f" : {type_}")
            )

    @property
    def accesses(self) -> list[Access]:
        """The loads and stores of the kernel, in the order of the text.

        Raises:
            ValueError: where an address does not come from exactly one pointer argument.
        """
        found = []
        for op in self.operations:
            if op.name in ("tt.load", "tt.store"):
                shape = re.search(r"tensor<([\dx]*)x!tt", op.text)
                elements = prod(map(int, shape[1].split("x"))) if shape else 1
                found.append(Access(op.name.removeprefix("tt."), self._base(op.operands[0]), elements))
        return found

    @property
    def narrow_offsets(self) -> set[str]:
        """The arguments to which the kernel adds an offset of fewer than 64 bits."""
        narrow = set()
        for op in self.operations:
            if op.name == "tt.addptr" and not re.search(r"i64>?$", op.text):
                narrow.add(self._base(op.operands[0]))
        return narrow

    @property
    def has_atomics(self) -> bool:
        return any(op.name.startswith("tt.atomic") for op in self.operations)

    def overflows(self, integers: Mapping[str, int], grid: Sequence[int]) -> list[Overflow]:
        """The integers in addresses and masks that a launch can drive out of their type, by interval arithmetic.

        A number from memory may be anything that its type holds, unless the kernel promises its bounds (tl.assume).

        Args:
            integers: the values of the kernel's integer arguments.
            grid: programs along each axis.
        """
        intervals = self._intervals(integers, grid)
        found = []
        for op in self._feeding_addresses():
            width = _INDEX_WIDTHS.get(_element_type(op.result_type))
            exact = intervals.get(op.results[0])
            if (
                width in (32, 64)
                and exact is not None
                and not -(2 ** (width - 1)) <= exact[0] <= exact[1] < 2 ** (width - 1)
            ):
                found.append(Overflow(op, exact))
        return found

    def _base(self, pointer: str) -> str:
        """The pointer argument that an address starts from, without its ``%``; with ``*`` for one loaded through it."""
        bases, open_names, seen = set(), [pointer], set()
        while open_names:
            name = open_names.pop()
            if name in seen:
                continue
            seen.add(name)
            op = self._defined_by.get(name)
            if op is None:
                bases.add(name.removeprefix("%"))
            elif op.name == "phi":
                open_names += op.operands
            elif op.name == "arith.select":
                open_names += op.operands[1:]
            elif op.name == "tt.int_to_ptr":
                loaded = self._defined_by.get(op.operands[0])
                if loaded is None or loaded.name != "tt.load":
                    raise ValueError(f"the address {pointer} comes from {op.text}, expected a pointer from a table")
                bases.add("*" + self._base(loaded.operands[0]))
            else:  # tt.splat, tt.addptr, tt.broadcast ...: the pointer comes first
                open_names.append(op.operands[0])
        if len(bases) != 1 or not {base.lstrip("*") for base in bases} <= set(self.arguments):
            raise ValueError(f"the address {pointer} comes from {sorted(bases)}, expected one argument")
        return bases.pop()

    def _feeding_addresses(self) -> list[Operation]:
        """The operations from which addresses and masks are computed; not those behind a value loaded from memory."""
        needed, open_names = set(), []
        for op in self.operations:
            if op.name == "tt.load":
                open_names += op.operands[:2]
            elif op.name == "tt.store":
                open_names += [op.operands[0], *op.operands[2:]]
        while open_names:
            name = open_names.pop()
            op = self._defined_by.get(name)
            if op is None or name in needed or op.name == "tt.load":
                continue
            needed.add(name)
            open_names += op.operands
        return [op for op in self.operations if needed.intersection(op.results)]

    def _intervals(self, integers: Mapping[str, int], grid: Sequence[int]) -> dict[str, Interval]:
        """Between which values each integer lies, computed without wrapping around; what is unknown is left out."""
        known: dict[str, Interval] = {f"%{name}": (value, value) for name, value in integers.items()}
        promised = self._promises()
        for op in self.operations:
            if len(op.results) != 1 or _element_type(op.result_type) not in _INDEX_WIDTHS:
                continue
            interval = _interval(op, known, grid)
            if interval is None and op.name == "arith.cmpi":
                continue
            if interval is None:
                # Anything that the type holds.
                half = 2 ** (_INDEX_WIDTHS[_element_type(op.result_type)] - 1)
                interval = (-half, half - 1)
            low, high = promised.get(op.results[0], (-inf, inf))
            known[op.results[0]] = max(interval[0], low), min(interval[1], high)
        return known

    def _promises(self) -> dict[str, Interval]:
        """The bounds of loaded numbers that the kernel promises to the compiler; of others, arithmetic must tell."""
        promised: dict[str, Interval] = {}
        conditions = [name for op in self.operations if op.name == "llvm.intr.assume" for name in op.operands]
        while conditions:
            op = self._defined_by.get(conditions.pop())
            if op is not None and op.name == "arith.andi":
                conditions += op.operands
            if op is None or op.name != "arith.cmpi":
                continue
            value, limit = (self._defined_by.get(name) for name in op.operands)
            if value is None or value.name != "tt.load" or limit is None or limit.name != "arith.constant":
                continue
            number, _ = _interval(limit, {}, ())
            predicate = re.match(r"arith\.cmpi (\w+)", op.text)[1]
            bound = {
                "sge": (number, inf),
                "sgt": (number + 1, inf),
                "sle": (-inf, number),
                "slt": (-inf, number - 1),
            }.get(predicate, (-inf, inf))
            low, high = promised.get(value.results[0], (-inf, inf))
            promised[value.results[0]] = max(low, bound[0]), min(high, bound[1])
        return promised


def _operation(text: str) -> Operation:
    results, body = (), text
    defined = re.match(r"((?:%[\w$.-]+(?::\d+)?(?:, )?)+) = (.*)", text)
    if defined:
        body = defined[2]
        for name, count in re.findall(r"(%[\w$.-]+)(?::(\d+))?", defined[1]):
            results += (name,) if not count else tuple(f"{name}#{i}" for i in range(int(count)))
    name = re.match(r"\"?([\w.]+)\"?", body)[1]
    return Operation(results, name, tuple(re.findall(_NAME, body)), body)


def _split_types(text: str) -> list[str]:
    """Types at the top level of a list; a comma inside <> does not part them."""
    return [part.strip() for part in re.split(r",\s*(?![^<]*>)", text)]


def _loop_type(text: str) -> str:
    type_ = re.search(r" : (i\d+|index)\s*\{$", text)
    return f" : {type_[1] if type_ else 'i32'}"


def _element_type(type_: str) -> str:
    tensor = re.fullmatch(r"tensor<(?:\d+x)*(.+?)(?:, .*)?>", type_)
    return tensor[1] if tensor else type_


def _interval(op: Operation, known: Mapping[str, Interval], grid: Sequence[int]) -> Interval | None:
    """The interval of an integer operation; ``None`` where it is not known."""
    if op.name == "arith.constant":
        value = re.match(r"arith\.constant (?:dense<)?(-?\d+|true|false)>? ?:?", op.text)
        if value is None:
            return None
        number = {"true": 1, "false": 0}.get(value[1])
        number = int(value[1]) if number is None else number
        return number, number
    if op.name == "tt.make_range":
        start, end = (int(re.search(rf"{word} = (-?\d+)", op.text)[1]) for word in ("start", "end"))
        return start, end - 1
    if op.name in ("tt.get_program_id", "tt.get_num_programs"):
        axis = "xyz".index(re.search(r" ([xyz])\b", op.text)[1])
        programs = grid[axis] if axis < len(grid) else 1
        return (0, programs - 1) if op.name == "tt.get_program_id" else (programs, programs)
    operands = [known.get(name) for name in op.operands]
    if op.name == "arith.select":
        operands = operands[1:]
    if not operands or any(interval is None for interval in operands):
        return None
    if op.name in _UNCHANGED:
        return operands[0]
    if op.name in ("arith.select", "phi"):
        # A value carried through a loop is unknown here (its next one is defined below), unless it does not change.
        return min(low for low, _ in operands), max(high for _, high in operands)
    if op.name == "loop.index":
        (low, _), (_, end), _ = operands
        return low, max(low, end - 1)
    rule = _BINARY.get(op.name)
    return rule(*operands) if rule else None


def _corners(function, a: Interval, b: Interval) -> Interval:
    values = [function(x, y) for x in a for y in b]
    return min(values), max(values)


def _divide(a: Interval, b: Interval) -> Interval | None:
    if b[0] <= 0:
        return None
    return _corners(lambda x, y: -(-x // y) if x < 0 else x // y, a, b)


def _remainder(a: Interval, b: Interval) -> Interval | None:
    if b[0] <= 0:
        return None
    largest = b[1] - 1
    return (0 if a[0] >= 0 else max(a[0], -largest)), (min(a[1], largest) if a[1] > 0 else 0)


def _and(a: Interval, b: Interval) -> Interval | None:
    masks = [interval[1] for interval in (a, b) if interval[0] >= 0]
    return (0, min(masks)) if masks else None


_UNCHANGED = {
    "arith.extsi", "arith.extui", "arith.trunci", "arith.index_cast",
    "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.reshape", "tt.trans",
}  # fmt: skip
_BINARY = {
    "arith.addi": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "arith.subi": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "arith.muli": lambda a, b: _corners(lambda x, y: x * y, a, b),
    "arith.divsi": _divide,
    "arith.divui": _divide,
    "arith.remsi": _remainder,
    "arith.remui": _remainder,
    "arith.minsi": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "arith.maxsi": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "arith.andi": _and,
    "arith.shli": lambda a, b: _corners(lambda x, y: x << int(y), a, b) if 0 <= b[0] <= b[1] < 64 else None,
}
