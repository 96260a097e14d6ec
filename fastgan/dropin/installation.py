"""``install``: replaces CUDA extensions by fastgan's ops, and reports it."""

import importlib
import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from types import ModuleType

from fastgan.dropin.finder import DEFAULT_PACKAGES, FAMILIES, family_of, hand_down, serve, to_replace


def install(package: str | None = None) -> None:
    """Replaces the CUDA extensions that StyleGANs compile by fastgan's ops, in this process and its children.

    Two families of packages are known: NVIDIA's, imported as ``torch_utils.ops`` (stylegan2-ada-pytorch, stylegan3,
    R3GAN, EG3D and their forks), and rosinality's, imported as ``op``. Their modules are served with the signatures,
    defaults and module attributes of the originals; other modules of the package stay unchanged. ``install`` may be
    called before or after they are imported: an already imported module is changed in place, and copies of its
    functions are replaced in all modules of ``sys.modules``. Python processes started later do the same, through
    ``PYTHONPATH``. A line on stderr lists the replaced modules and the backend of the ops.

    Args:
        package: the dotted name of a package of either family under another name, such as ``"models.stylegan2.op"``.
            The family is recognized by the module ``bias_act`` (NVIDIA's) or ``fused_act`` (rosinality's). ``None``
            stands for ``torch_utils.ops`` and ``op``, the latter only if it holds ``fused_act``; they need not be
            importable yet.

    Raises:
        ModuleNotFoundError: if no package with this name is found.
        ValueError: if the package holds neither ``bias_act`` nor ``fused_act``.
    """
    packages = DEFAULT_PACKAGES if package is None else {package: _family(package)}
    new = serve(packages)
    hand_down()
    modules = [m for name, family in packages.items() for m in to_replace(name, family)]
    copies = _change_in_place(modules)
    # Under torchrun, with one process per GPU, only the first process reports.
    if (new or modules) and os.environ.get("RANK", "0") == "0":
        _say(packages, modules, copies)


def _family(package: str) -> str:
    family = family_of(_folders(package))
    if family is None:
        raise ValueError(
            f"install: the package {package} holds neither bias_act.py (NVIDIA's ops) nor fused_act.py (rosinality's);"
            " name the package whose modules these are"
        )
    return family


def _folders(package: str) -> list[str]:
    """The folders of a package, found without importing it: its parents may import the ops already."""
    path: Iterable[str] | None = None
    name = ""
    for part in package.split("."):
        name = f"{name}.{part}".lstrip(".")
        if name in sys.modules:
            path = getattr(sys.modules[name], "__path__", None)
        else:
            # Found by the last part of the name: a dotted name without __init__.py would be looked up in the parent.
            spec = PathFinder.find_spec(part, path)
            path = None if spec is None else spec.submodule_search_locations
        if path is None:
            raise ModuleNotFoundError(
                f"install: no package is called {name}; expected the dotted name of a package that can be imported"
            )
        path = list(path)
    return path


def _change_in_place(modules: list[ModuleType]) -> int:
    """Turns modules into fastgan's and replaces copies of their contents elsewhere; returns the number of copies."""
    replacements: dict[int, tuple[object, object]] = {}
    for module in modules:
        before = dict(vars(module))
        importlib.reload(module)
        for name, old in before.items():
            new = vars(module)[name]
            if new is not old and (callable(old) or isinstance(old, dict)) and not name.startswith("__"):
                replacements[id(old)] = old, new
    copies = 0
    for module in [m for m in sys.modules.values() if isinstance(m, ModuleType)]:
        for name, value in list(vars(module).items()):
            old, new = replacements.get(id(value), (None, None))
            if new is not None and value is old:
                setattr(module, name, new)
                copies += 1
    return copies


def _say(packages: dict[str, str], modules: list[ModuleType], copies: int) -> None:
    lines = ["fastgan.dropin: these modules are replaced by fastgan's, in this process and its Python child processes"]
    for name, family in packages.items():
        changed = sum(module.__name__.rpartition(".")[0] == name for module in modules)
        when = f"{changed} were imported before and changed in place" if changed else "when they are imported"
        where = ", if it contains fused_act.py" if name == "op" else ""
        lines.append(f"  {name}{where}: {', '.join(FAMILIES[family])} ({when})")
    if copies:
        lines.append(f"  {copies} copies of their functions in other modules were replaced")
    lines.append(f"  {_what_the_ops_run_on()}")
    print("\n".join(lines), file=sys.stderr)


def _what_the_ops_run_on() -> str:
    import torch

    from fastgan_kernels import backend_of

    # Counted without initializing CUDA, which would prevent the script from forking and from choosing its GPUs.
    gpus = torch.cuda.device_count()
    if gpus == 0:
        return f"the ops run in plain torch, as torch sees no GPU: {backend_of('bias_act', torch.empty(0)).reason}"
    seen = "1 GPU" if gpus == 1 else f"{gpus} GPUs"
    return f"the ops run as Triton kernels on a GPU that Triton supports (`fastgan doctor`); torch sees {seen}"
