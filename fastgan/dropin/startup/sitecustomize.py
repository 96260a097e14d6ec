"""Runs when a Python process starts below one that called ``fastgan.dropin.install()``, and serves the same ops there.

Python imports it because its folder is at the front of PYTHONPATH. It does not import torch.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

try:
    from fastgan.dropin.finder import serve_inherited
except ImportError:  # an interpreter of another environment, which has no fastgan
    pass
else:
    serve_inherited()

# Runs the sitecustomize that this one hides, such as Debian's.
_here = os.path.dirname(os.path.abspath(__file__))
_hidden = PathFinder.find_spec("sitecustomize", [p for p in sys.path if os.path.abspath(p) != _here])
if _hidden is not None and _hidden.loader is not None:
    sys.modules["sitecustomize"] = module_from_spec(_hidden)
    _hidden.loader.exec_module(sys.modules["sitecustomize"])
