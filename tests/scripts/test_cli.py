import errno
import importlib
import io
import re
import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from agents import AGENTS
from scripts import _cli, train_agent, train_vae
from tests.tables import restored
from wnrl import NORMS
from wnrl.data import DATASETS, FORMS
from wnrl.errors import UsageError
from wnrl.runs import Stopped
from wnrl.vae.models import MODELS

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Args:
    shape: Literal["round", "square"] = "round"
    """What it looks like."""
    size: int = 3
    """How large it is."""
    filled: bool = True
    """Whether it is."""

    def __post_init__(self):
        if self.size < 0:
            raise UsageError(f"size must be zero or above, got {self.size}")


class Terminal(io.StringIO):
    """Standard output in an encoding."""

    def __init__(self, encoding):
        super().__init__()
        self.code = encoding

    @property
    def encoding(self):
        return self.code


@pytest.mark.parametrize("columns", ["30", "80", "300"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])  # with and without lines to draw a box
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--shape", "flat"], "invalid choice 'flat' for argument '--shape'. Expected one of "
                              "('round', 'square')"),
        (["--size", "big"], "Error parsing --size: 'big' is no whole number"),
        (["--width", "3"], "Unrecognized options: --width, 3"),
        (["--size", "-1"], "size must be zero or above, got -1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line_in_every_encoding_and_width(
    monkeypatch, capsys, flags, told, encoding, columns
):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout", Terminal(encoding))
    with pytest.raises(SystemExit) as left:
        _cli.run(lambda args: None, Args, argv=flags)
    assert left.value.code == 2
    line = capsys.readouterr().err
    assert line in (f"error: {told}\n", f"error: {told}; --help lists all flags\n")


@pytest.mark.parametrize(("wrong", "meant"), [("--shap", "--shape"), ("--fild", "--filled")])
def test_a_flag_that_nearly_exists_is_guessed(capsys, wrong, meant):
    with pytest.raises(SystemExit):
        _cli.run(lambda args: None, Args, argv=[wrong])
    assert f"did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize("program", [train_agent, train_vae])
@pytest.mark.parametrize("word", ["--resume=True", "--no-resume=1", "--help=all", "-hx"])
def test_a_switch_with_a_value_is_one_line(capsys, program, word):
    with pytest.raises(SystemExit) as left:
        _cli.run(program.main, program.Args, default=program.preset_of, argv=[word])
    told = capsys.readouterr().err
    assert (left.value.code, told.count("\n")) == (2, 1)
    assert told.startswith("error: ")


@pytest.mark.parametrize(
    ("text", "number"), [("1e6", 10**6), ("2.5E3", 2500), ("-1", -1), ("10_000", 10_000)]
)
def test_whole_numbers_may_be_written_with_an_exponent(text, number):
    assert _cli.whole_number(text) == number
    if number > 0:
        assert _cli.parse(Args, argv=["--size", text]).size == number


@pytest.mark.parametrize("kind", [tuple[int, ...], tuple[int, ...] | None])
@pytest.mark.parametrize("sizes", ["64,64", "[64]"])
def test_sizes_with_anything_but_spaces_between_them_are_told_how_to_be_written(
    capsys, kind, sizes
):
    args = make_dataclass("Sizes", [("sizes", kind, ())])
    with pytest.raises(SystemExit):
        _cli.run(lambda args: None, args, argv=["--sizes", sizes])
    told = capsys.readouterr().err
    assert f"Error parsing --sizes: values must stand apart, as in 64 64, got ['{sizes}']" in told


def test_what_is_wrong_with_an_optional_number_is_said_without_its_types(capsys):
    @dataclass
    class Optional:
        size: Annotated[int, bool] | None = None

    with pytest.raises(SystemExit):
        _cli.run(lambda args: None, Optional, argv=["--size", "1.5"])
    told = "error: Error parsing --size: '1.5' is no whole number; --help lists all flags\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    "text", ["1.5", "1.0", "1e-3", "1e19", "-1e19", str(2**63), "1e999", "nan", "inf", "e", ""]
)
def test_other_texts_are_no_whole_numbers(text):
    with pytest.raises(ValueError, match="is no whole number"):
        _cli.whole_number(text)


def test_help_shows_the_description_wrapped_and_its_commands_as_they_are(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    command = "    python program.py --with a --very long --list of --flags 1"
    with pytest.raises(SystemExit) as left:
        _cli.parse(Args, f"Say it.\n\n{command}\n\n{'word ' * 20}\n``word`` end.", argv=["-h"])
    assert left.value.code == 0
    shown = capsys.readouterr().out.split("usage:")[0].split("Every program")[0].splitlines()
    assert shown[:4] == ["Say it.", "", command, ""]
    assert max(map(len, shown[4:])) <= 60
    assert " ".join(shown[4:]).split() == ["word"] * 20 + ["``word``", "end."]


PRINTING = """
import sys
sys.path.insert(0, {checkout!r})
from dataclasses import make_dataclass
from scripts import _cli, train_agent, train_vae
from tests.tables import restored
_cli.run(lambda args: {body}, make_dataclass("Args", []), argv={flags})
"""


@pytest.mark.parametrize(
    ("body", "flags"),
    [
        ("None", ["--help"]),
        ("print('a line')", []),  # which waits in the buffer until the end
    ],
)
def test_a_reader_that_leaves_ends_the_program_in_silence(body, flags):
    checkout = str(Path(__file__).resolve().parents[2])
    code = PRINTING.format(checkout=checkout, body=body, flags=flags)
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(timeout=60) == 141


def test_a_broken_pipe_to_anything_else_is_an_error():
    def main(args):
        raise BrokenPipeError("to a worker")

    with pytest.raises(BrokenPipeError, match="to a worker"):
        _cli.run(main, Args, argv=[])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left", "/a/b"), "error: /a/b: No space left\n"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "error: a file could not be written: Quota ex"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/gone/x"), "error: /gone/x: No such"),
    ],
)
def test_what_a_disk_refuses_is_one_line(error, told, capsys):
    def main(args):
        raise error

    with pytest.raises(SystemExit) as left:
        _cli.run(main, Args, argv=[])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(
    ("path", "flag", "table"),
    [
        ("agents/settings.py", "norm", NORMS),
        ("agents/settings.py", "algo", AGENTS),
        ("wnrl/vae/config.py", "norm", NORMS),
        ("wnrl/vae/config.py", "model", MODELS),
        ("wnrl/vae/config.py", "dataset", DATASETS),
    ],
)
def test_help_lists_the_words_that_a_flag_takes(path, flag, table):
    source = (CHECKOUT / path).read_text(encoding="utf-8")
    (told,) = re.findall(rf'    {flag}: [^\n]+ = "\w+"\n    """(.*?)"""', source, re.DOTALL)
    assert set(table) <= set(re.findall(r"[\w-]+", told))


PROGRAMS = ["train_agent", "train_vae", "evaluate_agent", "evaluate_vae", "sample_vae", "compare"]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("norms", NORMS),
        ("algos", AGENTS),
        ("models", MODELS),
        ("datasets", [*DATASETS, *FORMS]),
        (
            "studies",
            [
                "agents",
                "cartpole",
                "crossq",
                "digits",
                "dqn",
                "init",
                "memory",
                "mnist",
                "noise",
                "null",
                "quick",
                "sensitivity",
            ],
        ),
        ("envs", ["CartPole-v1", "CartPoleNoVel-v1"]),
    ],
)
def test_list_shows_every_word_of_a_kind_on_a_line_of_its_own(capsys, what, expected):
    with pytest.raises(SystemExit) as left:
        _cli.parse(Args, argv=["--size", "3", "--list", what])
    lines = capsys.readouterr().out.splitlines()
    assert not left.value.code
    words = [re.split("  +", line)[0] for line in lines]
    assert [word for word in words if word in expected] == list(expected)
    assert what == "envs" or len(words) == len(expected)


def test_a_listed_model_that_is_another_with_options_is_told_by_these(capsys):
    with pytest.raises(SystemExit):
        _cli.parse(Args, argv=["--list", "models"])
    draw, with_attention = capsys.readouterr().out.splitlines()[4:6]
    assert draw.split()[1:] == [*with_attention.split()[1:], "attention=False"]


@pytest.mark.parametrize("flags", [["--list"], ["--list", "norm"], ["--list="]])
def test_a_list_of_nothing_says_what_there_are_lists_of(flags):
    with pytest.raises(UsageError, match="list must be one of norms, algos, models, envs, data"):
        _cli.parse(Args, argv=flags)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a module in the current folder that adds a norm and says that it was imported."""
    (tmp_path / "my_norms.py").write_text(
        "from wnrl.norms import NORMS, Norm\n"
        "NORMS['mine'] = Norm('a norm of mine')\n"
        "print('imported')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield "my_norms"
    sys.modules.pop("my_norms", None)


@pytest.mark.parametrize("flags", [["--import", "my_norms"], ["--import=my_norms"]])
def test_a_module_of_the_current_folder_is_imported_before_anything_is_looked_up(
    package, capsys, flags
):
    with restored(), pytest.raises(SystemExit):
        _cli.parse(Args, argv=["--list", "norms", *flags])
    imported, *words = capsys.readouterr().out.splitlines()
    assert imported == "imported"
    assert words[-1].split("  ")[0] == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--import", "no_such_module"], "No module named 'no_such_module'"),
        (["--import"], "--import '' must be a module's name"),
        (["--import", "./my_lab.py"], "'./my_lab.py' must be a module's name, such as my_lab"),
        (["--import", "broken"], "--import 'broken' cannot be imported: KeyError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, flags, message):
    (tmp_path / "broken.py").write_text("{}['x']\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UsageError, match=message):
        _cli.parse(Args, argv=flags)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_names_import_and_list_in_its_help(program, capsys):
    module = importlib.import_module(f"scripts.{program}")
    default = getattr(module, "preset_of", None)
    with pytest.raises(SystemExit):
        _cli.parse(module.Args, module.__doc__, default, ["--help"])
    shown = capsys.readouterr().out
    assert "--import <module>" in shown
    assert "--list <what>" in shown


def test_a_worker_of_a_study_is_told_what_to_import():
    argv = ["quick", "--import", "one", "--seeds", "2", "--import=two"]
    assert _cli.imports(argv) == ["one", "two"]


WITHOUT = """
import importlib.metadata, runpy, sys
class Missing:
    def find_spec(self, name, *_):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
if not {installed!r}:
    ours = [path for path in sys.path if path.startswith(sys.base_prefix)]
    sys.path = [path for path in ours if "site-packages" not in path]
sys.argv = [{script!r}, *{flags!r}]
runpy.run_path({script!r}, run_name="__main__")
"""


def without(module, program, *flags, installed=True):
    """Run a program where a module is not installed, or wnrl itself is not."""
    script = str(CHECKOUT / "scripts" / f"{program}.py")
    code = WITHOUT.format(module=module, script=script, flags=flags, installed=installed)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_package_of_an_extra_that_is_missing_is_one_line_that_names_the_extra(program):
    ended = without("tyro", program, "--help")
    told = "error: tyro is missing: pip install 'wnrl[lab]'\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", told)


@pytest.mark.parametrize("program", ["train_agent", "train_vae"])
def test_a_python_without_wnrl_is_one_line_that_says_how_to_go_on(program):
    ended = without("tyro", program, "--seed", "1", installed=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert re.fullmatch(
        r"error: \S+ has no tyro, which wnrl needs: (source \S+/activate|pip install -e \S+)\n",
        ended.stderr,
    )


def test_a_module_that_wnrl_does_not_need_is_an_error_like_any_other():
    def main(args):
        raise ModuleNotFoundError("No module named 'mine'", name="mine")

    with pytest.raises(ModuleNotFoundError, match="mine"):
        _cli.run(main, Args, argv=[])


def test_a_run_that_was_stopped_says_so_and_leaves_with_its_code(capsys):
    def main(args):
        with _cli.progress_bar() as progress:
            progress(0.5)
            raise Stopped(15, "stopped half way")

    with pytest.raises(SystemExit) as left:
        _cli.run(main, Args, argv=[])
    assert left.value.code == 143
    assert capsys.readouterr().err.endswith("stopped half way\n")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """The bin of an environment whose Python runs this, and which is not active."""
    folder = tmp_path / "my env" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "tensorboard", "activate"):
        (folder / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    return folder


def test_commands_that_are_printed_work_in_a_shell_without_the_environment(environment):
    assert _cli.as_pasted("tensorboard") == str(environment / "tensorboard")
    assert _cli.activation() == f"source '{environment / 'activate'}'"


def test_commands_that_are_printed_are_short_where_the_environment_is_active(
    environment, monkeypatch
):
    monkeypatch.setenv("PATH", str(environment), prepend=":")
    assert _cli.as_pasted("tensorboard") == "tensorboard"
    assert _cli.as_pasted("no_such_program") == "no_such_program"
    assert _cli.activation() is None
