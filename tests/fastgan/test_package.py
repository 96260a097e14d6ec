"""What ``import fastgan`` has."""

import subprocess
import sys
from importlib.resources import files

import pytest

import fastgan


def test_everything_is_there_after_import_fastgan():
    assert {"nn", "models", "regularizers", "accelerate", "load_generator", "__version__"} <= set(dir(fastgan))
    for name in fastgan.__all__:
        assert fastgan.__getattr__(name) is getattr(fastgan, name)


def test_nothing_is_imported_before_it_is_used():
    program = "import sys, fastgan; assert 'nn' in dir(fastgan) and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_it_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fastgan' has no attribute 'nm'"):
        fastgan.nm  # noqa: B018


def test_type_checkers_see_the_annotations():
    for package in ("fastgan", "fastgan_kernels"):
        assert files(package).joinpath("py.typed").is_file()
