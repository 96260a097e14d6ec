import dataclasses
import inspect
import math
import re
import subprocess
import sys
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan.models import MODELS
from fastgan.regularizers import REGULARIZERS
from fastgan.training.config import (
    SettingsError,
    TrainingConfig,
    at_step,
    describe_settings,
    load_preset,
    load_settings,
    parse_assignment,
    preset_names,
    to_toml,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # all that UTF-8 can hold
CONFIGS = st.builds(
    TrainingConfig,
    data=TEXT,
    model=TEXT,
    batch_size=st.integers(2, 2**20),
    steps=st.integers(1, 2**63 - 1),
    lr=st.floats(0, 1, exclude_min=True),
    beta1=st.floats(0, 1, exclude_max=True),
    spectral_norm=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=30)
@given(CONFIGS)
def test_toml_reads_back_equal(config):
    assert TrainingConfig.from_mapping(tomllib.loads(to_toml(config))) == config


def test_awkward_text_survives_a_file(tmp_path):
    config = TrainingConfig(data='a "quoted" \\path\\ with \n newline, tab \t, DEL \x7f, NUL \0 and é 🙂')
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    assert TrainingConfig.from_mapping(load_settings(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(
    ("name", "nearest"), [("batchsize", "batch_size"), ("learning_rate", None), ("step", "steps"), ("zzz", None)]
)
def test_an_unknown_setting_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(SettingsError) as caught:
        TrainingConfig.from_mapping({name: 1}, source="my.toml")
    assert f"unknown setting {name!r} in my.toml" in str(caught.value)
    assert f"did you mean {nearest!r}" in str(caught.value) if nearest else "choose from data," in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", 0, "an integer at least 1"),
        ("steps", "10", "an integer at least 1"),
        ("steps", True, "an integer at least 1"),
        ("batch_size", 1, "an integer from 2 to 1048576"),
        ("lr", 0, "a number above 0 and at most 1"),
        ("lr", math.nan, "a number above 0 and at most 1"),
        ("lr", 10**400, "a number above 0 and at most 1"),
        ("beta1", 1, "a number at least 0 and below 1"),
        ("seed", -1, "an integer from 0 to 9223372036854775807"),
        ("real_label", 0.5, "a number above 0.5 and at most 1"),
        ("fake_label", 0.5, "a number at least 0 and below 0.5"),
        ("regularizer_weight", 0, "a number above 0"),
        ("spectral_norm", 1, "true or false"),
        ("data", 3, "text"),
        ("data_on_device", "maybe", "yes, no or auto"),
        ("data", "half a pair \ud800", "text"),
        ("device", "tpu", "auto (a GPU where there is one), cpu, cuda or cuda:INDEX"),
        ("device", "cuda:x", "cuda:INDEX"),
    ],
)
def test_an_ill_typed_or_out_of_range_value_is_refused(name, value, expected):
    with pytest.raises(SettingsError) as caught:
        TrainingConfig(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"setting {name!r} is {value!r}, expected ")
    assert expected in message
    assert "\n" not in message


def test_a_whole_number_may_stand_where_a_float_belongs():
    config = TrainingConfig(lr=1, beta1=0)
    assert (config.lr, config.beta1) == (1.0, 0.0)
    assert type(config.lr) is type(config.beta1) is float


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("steps=7", ("steps", 7)),
        ("lr=1e-3", ("lr", 1e-3)),
        ("data=a=b", ("data", "a=b")),
        ("data=", ("data", "")),
        (" seed =3", ("seed", 3)),
        ("spectral_norm=true", ("spectral_norm", True)),
        ("spectral_norm=false", ("spectral_norm", False)),
    ],
)
def test_assignments_are_read_as_the_type_of_the_setting(assignment, expected):
    assert parse_assignment(assignment) == expected


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "--set takes key=value, not 'steps'"),
        ("steps=1.5", "setting 'steps' is '1.5', expected an integer at least 1"),
        ("lr=fast", "setting 'lr' is 'fast', expected a number"),
        ("spectral_norm=False", "setting 'spectral_norm' is 'False', expected true or false"),
        ("stepz=1", "unknown setting 'stepz' in --set; did you mean 'steps'?"),
        ("=1", "unknown setting ''"),
    ],
)
def test_a_bad_assignment_is_refused(assignment, message):
    with pytest.raises(SettingsError) as caught:
        parse_assignment(assignment)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"steps = ", "is not valid TOML"),
        (b"\xff\xfe", "is not UTF-8 text; expected TOML, which is"),
        (b"[training]\nsteps = 3", "unknown setting 'training'"),
        (b"stepz = 3", "did you mean 'steps'"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_settings_file_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_name_their_sources(name):
    config = TrainingConfig.from_mapping(load_preset(name))
    assert TrainingConfig.from_mapping(tomllib.loads(to_toml(config))) == config
    from importlib.resources import files

    text = (files("fastgan.training") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    assert "https://" in text


def test_every_setting_is_described():
    rows = {name: (value, help) for name, value, help in describe_settings(TrainingConfig(beta1=0.25))}
    assert list(rows) == [f.name for f in dataclasses.fields(TrainingConfig)]
    assert all(help for _, help in rows.values())
    assert rows["beta1"] == ("0.25", "Adam's decay of the mean gradient (at least 0 and below 1)")
    assert rows["data"][0] == '"digits"'


def test_what_the_help_says_of_models_and_names_is_so():
    help_of = {name: help for name, _, help in describe_settings(TrainingConfig())}
    for setting, option in (
        ("conditional", "num_classes"),
        ("minibatch", "minibatch"),
        ("style_mixing", "style_mixing"),
    ):
        able = {name for name, build in MODELS.items() if option in inspect.signature(build).parameters}
        assert able == {name for name in MODELS if re.search(rf"(?<![\w-]){name}(?![\w-])", help_of[setting])}, setting
    assert set(REGULARIZERS) <= set(re.findall(r"[a-z0-9-]+", help_of["regularizer"]))


def test_settings_are_read_without_torch():
    code = "import sys, fastgan.training.config, fastgan.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SCHEDULED = {
    "lr": "cosine(2e-4, 5e-5, 1000)",
    "regularizers": [("r1", 5.0, 16), {"name": "r2", "weight": "cosine(5, 0.5, 10)"}, ["dragan"]],
}


def test_schedules_and_penalties_are_read_back(tmp_path):
    config = TrainingConfig(regularizer="r2", regularizer_interval=4, **SCHEDULED)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert TrainingConfig.from_mapping(load_settings(path)) == config
    assert config.penalties == (
        ("r2", 10.0, 4),
        ("r1", 5.0, 16),
        ("r2", "cosine(5, 0.5, 10)", 1),
        ("dragan", 10.0, 1),
    )
    assert parse_assignment("lr=cosine(1e-3, 0.1, 5)") == ("lr", "cosine(1e-3, 0.1, 5)")
    assert [at_step(config.lr, step) for step in (0, 500, 1000, 9999)] == pytest.approx([2e-4, 1.25e-4, 5e-5, 5e-5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lr": "cosine(2, 1e-4, 10)"},
            "setting 'lr' is 'cosine(2, 1e-4, 10)', expected a number above 0 and at most 1",
        ),
        ({"beta2": "cosine(0.9, 1, 10)"}, "setting 'beta2' is 'cosine(0.9, 1, 10)', expected a number at least 0 and"),
        ({"lr": "cosine(1e-3, 1e-4, 0)"}, "or 'cosine(START, END, STEPS)' of such"),
        ({"regularizers": ["r1"]}, "setting 'regularizers' has 'r1', expected (name or function, weight, interval)"),
        (
            {"regularizers": [{"name": "r1", "wait": 3}]},
            "setting 'regularizers' has {'name': 'r1', 'wait': 3}, expected",
        ),
        ({"regularizers": [("r1", -1.0)]}, "setting 'regularizer_weight' is -1.0, expected a number above 0"),
        ({"loss": 3}, "setting 'loss' is 3, expected text"),
    ],
)
def test_a_bad_schedule_or_penalty_is_refused(settings, message):
    with pytest.raises(SettingsError) as caught:
        TrainingConfig(**settings)
    assert message in str(caught.value)


def test_code_is_written_by_its_name_and_not_read_back(tmp_path):
    def warm_up(step):
        return 1e-3

    path = tmp_path / "config.toml"
    for with_code, name in (
        ({"lr": warm_up}, "<warm_up>"),
        ({"loss": (warm_up, print)}, "<warm_up, print>"),
        ({"regularizers": [(warm_up, 1.0)]}, "<warm_up>"),
    ):
        path.write_text(to_toml(TrainingConfig(**with_code)))
        assert name in path.read_text()
        with pytest.raises(SettingsError, match=f"{name}, which only the script that began the run has; run it again"):
            TrainingConfig.from_mapping(load_settings(path))
