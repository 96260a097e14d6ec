import os
import sys

import pytest
from torch.optim import Adam
from torch.utils.data import Sampler

from fastgan.dropin import finder


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder for packages that is on sys.path; what is installed and imported in the test is undone after it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if f is not finder._finder])
    monkeypatch.setattr(finder._finder, "packages", {})
    monkeypatch.setattr(Adam, "__init__", Adam.__init__)
    monkeypatch.setattr(Sampler, "__init__", object.__init__)
    monkeypatch.delenv("RANK", raising=False)
    environment = dict(os.environ)
    tops = {name.partition(".")[0] for name in sys.modules}
    yield tmp_path
    os.environ.clear()
    os.environ.update(environment)
    for name in [name for name in sys.modules if name.partition(".")[0] not in tops]:
        del sys.modules[name]
