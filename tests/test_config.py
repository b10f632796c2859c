from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from fathom.config import StrictConfig, load_config, nearest_name, parse_config
from fathom.errors import ConfigError


class Inner(StrictConfig):
    max_depth: float = Field(default=10.0, gt=0)
    folder: Path | None = None
    size: tuple[int, int] = (2, 3)


class Outer(StrictConfig):
    data: Inner = Inner()
    mode: Literal["fast", "slow"] = "fast"
    steps: int = 5
    augment: bool = True
    tags: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> "Outer":
        if self.steps == 13:
            raise ValueError("Set steps to anything but 13; got 13.")
        return self


def load(tmp_path: Path, text: str, *overrides: str, name: str = "a.yaml") -> Outer:
    path = tmp_path / name
    path.write_text(text)
    return load_config(path, Outer, overrides)


def test_yaml_lists_and_paths_and_whole_numbers_are_accepted(tmp_path):
    config = load(tmp_path, "data: {max_depth: 80, folder: /x, size: [4, 5]}\n")
    assert config.data == Inner(max_depth=80.0, folder=Path("/x"), size=(4, 5))
    assert isinstance(config.data.max_depth, float)


def test_empty_file_gives_the_defaults(tmp_path):
    assert load(tmp_path, "") == Outer()


def test_json_is_read_by_its_suffix(tmp_path):
    assert load(tmp_path, '{"steps": 7}', name="a.json").steps == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "data: {max_dept: 3}",
            "Unknown option 'data.max_dept'. Did you mean 'max_depth'? Known: max_depth, folder, size.",
        ),
        ("dta: {}", "Unknown option 'dta'. Did you mean 'data'? Known: data, mode, steps, augment, tags."),
        ("data: {max_depth: '10'}", "'data.max_depth' must be a number; got the text '10'."),
        ("data: {max_depth: 1e-4}", "write 1.0e-4."),
        ("data: {max_depth: -1}", "'data.max_depth' must be greater than 0; got -1."),
        ("data: {max_depth: .nan}", "'data.max_depth' must be a finite number; got nan."),
        ("steps: 2.5", "'steps' must be a whole number; got 2.5."),
        ("steps: no", "'steps' must be a whole number; got false."),
        ("augment: 1", "'augment' must be true or false; got 1."),
        ("mode: medium", "'mode' must be 'fast' or 'slow'; got the text 'medium'."),
        ("data: 3", "'data' must be a section of names and values; got 3."),
        ("tags: x", "'tags' must be a list; got the text 'x'."),
        ("steps: 13", "Set steps to anything but 13; got 13."),
        ("[1, 2]", "expected a mapping of names to values; got a list of 2."),
        ("data: [", "not a valid YAML file"),
    ],
)
def test_each_error_is_a_sentence_that_names_the_file(tmp_path, text, sentence):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "a.yaml"))


def test_all_errors_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"3 errors") as caught:
        load(tmp_path, "data: {max_depth: -1, x: 1}\nsteps: a")
    assert len(str(caught.value).splitlines()) == 4


def test_a_missing_key_is_named():
    class Needs(StrictConfig):
        root: str

    with pytest.raises(ConfigError, match=r"here: 'root' is missing\."):
        parse_config({}, Needs, source="here")


def test_overrides_change_nested_values(tmp_path):
    config = load(tmp_path, "steps: 1", "data.max_depth=20", "steps=3", "tags=[a, b]")
    assert (config.data.max_depth, config.steps, config.tags) == (20.0, 3, ["a", "b"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("steps", "A change is written section.key=value; got 'steps'."),
        ("steps.x=1", "'steps' is 1, not a section."),
        ("stops=1", "Did you mean 'steps'?"),
        ("steps=[", "not valid YAML"),
    ],
)
def test_bad_overrides(tmp_path, change, sentence):
    with pytest.raises(ConfigError, match=r".") as caught:
        load(tmp_path, "steps: 1", change)
    assert sentence in str(caught.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml", Outer)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(tmp_path / "b.yaml", Outer)


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer().steps = 3


def test_nearest_name_without_a_near_one():
    assert nearest_name("zzz", ["abc"]) == "Known: abc."
