"""The modules that fastgan serves under the repositories' names, and the finder that serves them.

A served module is a file of fastgan executed under the original module's name. So each has its own state (``enabled``,
``weight_gradients_disabled``), its classes are pickled under the original names, and ``importlib.reload`` changes an
already imported module in place.

This module imports only the standard library, because it runs when an interpreter starts.
"""

import os
import sys
from collections.abc import Iterable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import ModuleType

# The first module of each family identifies a package.
FAMILIES = {
    "nvidia": (
        "bias_act",
        "upfirdn2d",
        "filtered_lrelu",
        "conv2d_resample",
        "conv2d_gradfix",
        "grid_sample_gradfix",
        "fma",
    ),
    "rosinality": ("fused_act", "upfirdn2d", "conv2d_gradfix"),
}
DEFAULT_PACKAGES = {"torch_utils.ops": "nvidia", "op": "rosinality"}

_HERE = os.path.dirname(os.path.abspath(__file__))
# Environment variable with the packages that a process serves, for its child processes: NAME=FAMILY, comma-separated.
_ENVIRONMENT = "FASTGAN_DROPIN"
STARTUP = os.path.join(_HERE, "startup")


def family_of(folders: Iterable[str]) -> str | None:
    """The family of the ops in a package's folders; ``None`` if there are none."""
    folders = list(folders)
    for family, (mark, *_) in FAMILIES.items():
        for folder in folders:
            path = os.path.join(folder, mark)
            if os.path.isfile(f"{path}.py") or os.path.isfile(os.path.join(path, "__init__.py")):
                return family
    return None


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        # It has imported torch.
        from fastgan.dropin.old_torch import accept_old_calls

        accept_old_calls()


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self.packages: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        family = self.packages.get(package)
        if family is None or name not in FAMILIES[family]:
            return None
        # A name like `op` may belong to another package.
        if package != "torch_utils.ops" and family_of(path or ()) != family:
            return None
        path_of_ours = os.path.join(_HERE, family, f"{name}.py")
        return spec_from_file_location(fullname, loader=_Loader(fullname, path_of_ours))


_finder = _Finder()


def serve(packages: dict[str, str]) -> bool:
    """Serves the modules of the packages (name to family) in this process; returns whether any package is new."""
    new = not packages.items() <= _finder.packages.items()
    _finder.packages.update(packages)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    return new


def to_replace(package: str, family: str) -> list[ModuleType]:
    """The modules that were imported from a served package before, and are not fastgan's."""
    folders = getattr(sys.modules.get(package), "__path__", ())
    names = [name for name in (f"{package}.{name}" for name in FAMILIES[family]) if name in sys.modules]
    found = [sys.modules[name] for name in names if _finder.find_spec(name, folders) is not None]
    return [module for module in found if not (getattr(module, "__file__", None) or "").startswith(_HERE + os.sep)]


def hand_down() -> None:
    """Makes every Python process started by this one serve the same packages.

    A finder does not reach the children of ``torch.multiprocessing.spawn``; a ``sitecustomize.py`` on PYTHONPATH does.
    """
    os.environ[_ENVIRONMENT] = ",".join(f"{name}={family}" for name, family in _finder.packages.items())
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != STARTUP]
    os.environ["PYTHONPATH"] = os.pathsep.join([STARTUP, *others])


def serve_inherited() -> None:
    """Serves the packages of the parent process."""
    entries = filter(None, os.environ.get(_ENVIRONMENT, "").split(","))
    serve(dict(entry.split("=") for entry in entries))
