import pytest

from fastgan import cli


@pytest.fixture
def fastgan(capsys, monkeypatch):
    """Runs the command line in this process; returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(arg) for arg in args])
        return caught.value.code, *capsys.readouterr()

    return run
