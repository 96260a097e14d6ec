"""Runs no break: checks that the list of breaks is of the kernels and tests that there are."""

from tests.breaks import KERNELS, ROOT, breaks


def test_every_break_finds_its_text_and_its_tests():
    for what, file, old, _, noticed_by in breaks():
        assert old in (ROOT / KERNELS / file).read_text(), f"{what}: {file} has no {old!r}"
        for test in noticed_by:
            assert not test.endswith(".py") or (ROOT / "tests/kernels" / test).is_file(), f"{what}: no {test}"
