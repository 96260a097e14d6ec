"""``python -m fastgan.dropin SCRIPT [ARGS]``: runs a script as Python would, with the ops installed."""

import builtins
import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType

from fastgan.dropin.installation import install

_USAGE = """usage: python -m fastgan.dropin SCRIPT [ARGS]

Runs a Python script as `python SCRIPT [ARGS]` would, with fastgan's ops in the place of the CUDA extensions of
NVIDIA's StyleGAN repositories (torch_utils.ops) and rosinality's (op), also in the processes that it starts."""


def main(args: list[str]) -> None:
    """Runs ``args[0]`` as ``__main__`` with ``args`` as ``sys.argv``; returns when it ends.

    ``sys.path[0]`` becomes the folder of the script. Exceptions of the script and its exit code pass through; without
    a script the exit code is 2.
    """
    if args and args[0] in ("-h", "--help"):
        print(_USAGE)
        return
    if not args or not os.path.isfile(args[0]):
        print(f"fastgan.dropin: there is no script {args[0]!r}" if args else _USAGE, file=sys.stderr)
        sys.exit(2)
    script = args[0]
    sys.argv[:] = args
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    install()
    _run(os.path.abspath(script))


def _run(path: str) -> None:
    loader = SourceFileLoader("__main__", path)
    code = loader.source_to_code(loader.get_data(path), path)
    module = ModuleType("__main__")
    # Without a spec, multiprocessing finds the script by its file, as required.
    vars(module).update(__annotations__={}, __builtins__=builtins, __cached__=None, __file__=path, __loader__=loader)
    sys.modules["__main__"] = module
    exec(code, vars(module))


main(sys.argv[1:])
