"""Packages as those repositories have them, whose ops cannot be imported."""

from pathlib import Path

from fastgan.dropin.finder import FAMILIES

RAISING = "raise ImportError('this module compiles CUDA code')\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def nvidia(root: Path, package: str = "torch_utils.ops", *, text: str = RAISING) -> None:
    """The seven modules, and one that is not served."""
    folder = package.replace(".", "/")
    write(root, {f"{folder.partition('/')[0]}/__init__.py": "", f"{folder}/__init__.py": ""})
    write(root, {f"{folder}/{name}.py": text for name in FAMILIES["nvidia"]})
    write(root, {f"{folder}/palette.py": "COLORS = 3\n"})


def rosinality(root: Path, package: str = "op", *, text: str = RAISING) -> None:
    """The three modules, two of which the package imports, and one that is not served."""
    folder = package.replace(".", "/")
    exports = "from .fused_act import FusedLeakyReLU, fused_leaky_relu\nfrom .upfirdn2d import upfirdn2d\n"
    write(root, {f"{folder}/__init__.py": exports, f"{folder}/palette.py": "COLORS = 4\n"})
    write(root, {f"{folder}/{name}.py": text for name in FAMILIES["rosinality"]})
