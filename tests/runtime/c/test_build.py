"""The library as users build and call it: by cc, by CMake with pkg-config, and from other languages."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from textual_vision.runtime.pipeline import TextToImage

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "runtime" / "c"
EXAMPLES = LIBRARY / "examples"
PROMPT, SEED = "dog wearing sunglasses", 7
PUBLIC = {
    "tv_open",
    "tv_describe",
    "tv_generate",
    "tv_free",
    "tv_verify",
    "tv_close",
    "tv_error",
    "tv_hint",
    "tv_write_png",
}


def run(command, environment=None, cwd=None):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needs(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed here: {', '.join(missing)}")


@pytest.fixture(scope="session")
def installed(tmp_path_factory, compiler):
    """The prefix that CMake installed the library into."""
    if shutil.which("cmake") is None:
        pytest.skip("no CMake here")
    folder = tmp_path_factory.mktemp("cmake")
    prefix = folder / "prefix"
    run(
        [
            "cmake",
            "-S",
            LIBRARY,
            "-B",
            folder / "build",
            f"-DCMAKE_INSTALL_PREFIX={prefix}",
            "-DCMAKE_INSTALL_LIBDIR=lib",
        ]
    )
    run(["cmake", "--build", folder / "build"])
    run(["cmake", "--install", folder / "build"])
    return prefix


@pytest.fixture(scope="session")
def environment(installed, library_environment):
    """In which an example is built and run."""
    return {
        **library_environment,
        "LD_LIBRARY_PATH": str(installed / "lib"),
        "DYLD_LIBRARY_PATH": str(installed / "lib"),
        "PKG_CONFIG_PATH": str(installed / "lib" / "pkgconfig"),
    }


@pytest.fixture
def expected(tiny_bundle):
    return TextToImage.load(tiny_bundle, backend="onnxruntime")(PROMPT, seed=SEED)


def assert_drawn(path, expected):
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)


@needs("nm")
def test_only_the_functions_of_the_header_are_visible(installed):
    header = (installed / "include" / "textual_vision.h").read_text("utf-8")
    assert set(re.findall(r"^TV_API [\w ]+?\*?(tv_\w+)\(", header, re.MULTILINE)) == PUBLIC
    (library,) = [path for path in (installed / "lib").glob("libtextualvision.*") if not path.is_symlink()]
    symbols = run(["nm", "-D" if library.suffix != ".dylib" else "-g", "--defined-only", library])
    assert {line.split()[-1].lstrip("_") for line in symbols.splitlines()} == PUBLIC


@needs("pkg-config")
def test_the_c_example_is_built_by_pkg_config_and_draws(
    compiler, installed, environment, tiny_bundle, expected, tmp_path
):
    flags = run(["pkg-config", "--cflags", "--libs", "textual-vision"], environment).split()
    run(
        [
            compiler,
            "-std=c99",
            "-Wall",
            "-Werror",
            "-pedantic",
            EXAMPLES / "draw.c",
            *flags,
            "-o",
            tmp_path / "draw",
        ]
    )
    run([tmp_path / "draw", tiny_bundle, PROMPT, tmp_path / "dog.png"], environment)
    assert_drawn(tmp_path / "dog.png", expected)


def test_one_command_of_cc_is_enough(compiler, library_environment, tiny_bundle, expected, tmp_path):
    """The command that docs/how-to/embed.md gives."""
    page = (ROOT / "docs" / "how-to" / "embed.md").read_text("utf-8")
    (command,) = re.findall(r"^\$ (cc .*tv_draw\.c.*)$", page, re.MULTILINE)
    run(
        [
            "sh",
            "-c",
            command.replace("cc ", f"{compiler} ", 1).replace("-o tv-draw", f"-o {tmp_path}/tv-draw"),
        ],
        cwd=LIBRARY,
    )
    run(
        [tmp_path / "tv-draw", tiny_bundle, PROMPT, "--seed", SEED, "-o", tmp_path / "dog.png"],
        library_environment,
    )
    assert_drawn(tmp_path / "dog.png", expected)


def test_tv_draw_verifies_and_draws_several(installed, environment, tiny_bundle, tmp_path):
    program = installed / "bin" / "tv-draw"
    answer = run([program, tiny_bundle, "--verify"], environment)
    assert answer == "2 golden pictures, 2 of them equal; at least 1.0000 of the codes, inf dB\n"
    answer = run(
        [program, tiny_bundle, PROMPT, "--seed", 5, "--count", 3, "-o", tmp_path / "dog.png"], environment
    )
    assert answer.split() == [str(tmp_path / f"dog-{seed}.png") for seed in (5, 6, 7)]
    assert_drawn(tmp_path / "dog-6.png", TextToImage.load(tiny_bundle, backend="onnxruntime")(PROMPT, seed=6))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage: tv-draw"),
        (["BUNDLE"], 2, "usage: tv-draw"),
        (["BUNDLE", "dog", "--verify"], 2, "usage: tv-draw"),
        (["BUNDLE", "dog", "--seed", "-1"], 2, "usage: tv-draw"),
        (["BUNDLE", "dog", "--seed", str(2**64)], 2, "usage: tv-draw"),
        (["BUNDLE", "dog", "--count"], 2, "usage: tv-draw"),
        (["BUNDLE", "dog", "--count", "0"], 2, "usage: tv-draw"),
        (["nowhere.tv", "dog"], 2, "error: nowhere.tv does not exist\nhint: give the folder"),
        (["BUNDLE", ""], 2, "error: the prompt '' is empty\nhint: say what to draw"),
        (["BUNDLE", "dog", "--precision", "int4"], 2, "error: the bundle has no precision 'int4'"),
        (["BUNDLE", "dog", "--onnxruntime", "BUNDLE"], 6, "error: ONNX Runtime cannot be loaded:"),
        (["BUNDLE", "dog", "-o", "/nowhere/x.png"], 1, "error: /nowhere/x.png: No such file"),
        (
            ["BUNDLE", "xyzzy", "-o", "OUT"],
            0,
            "warning: prompt 'xyzzy': not in the vocabulary: 'xyzzy'; nothing in",
        ),
    ],
)
def test_tv_draw_says_what_is_wrong(installed, environment, tiny_bundle, tmp_path, arguments, code, message):
    names = {"BUNDLE": str(tiny_bundle), "OUT": str(tmp_path / "x.png")}
    command = [str(installed / "bin" / "tv-draw"), *(names.get(argument, argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert (done.returncode, done.stderr.startswith(message)) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("-ffast-math", "compile without -ffast-math"),
        ("-std=gnu99 -mfma -ffp-contract=fast", "rounds otherwise"),
    ],
)
def test_a_build_that_rounds_otherwise_is_refused(
    compiler, library_environment, tiny_bundle, tmp_path, option, message
):
    """By the compiler where it says so, else when a bundle is opened."""
    if "-mfma" in option and os.uname().machine != "x86_64":
        pytest.skip("these options are those of x86")
    sources = sorted((LIBRARY / "src").glob("*/*.c"))
    command = [compiler, "-O2", *option.split(), f"-I{LIBRARY / 'include'}", f"-I{LIBRARY / 'src'}", *sources]
    command += [LIBRARY / "tools" / "tv_draw.c", "-ldl", "-lm", "-o", tmp_path / "tv-draw"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        program = [str(tmp_path / "tv-draw"), str(tiny_bundle), "dog"]
        done = subprocess.run(program, capture_output=True, text=True, check=False, env=library_environment)
    assert done.returncode != 0
    assert message in done.stderr


@needs("c++")
def test_the_cpp_example_draws(installed, environment, tiny_bundle, expected, tmp_path):
    flags = [f"-I{installed / 'include'}", f"-L{installed / 'lib'}", "-ltextualvision"]
    strict = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    run(["c++", *strict, EXAMPLES / "draw.cpp", *flags, "-o", tmp_path / "draw"])
    run([tmp_path / "draw", tiny_bundle, PROMPT, tmp_path / "dog.png"], environment)
    assert_drawn(tmp_path / "dog.png", expected)


@needs("rustc")
def test_the_rust_example_draws(installed, environment, tiny_bundle, expected, tmp_path):
    run(
        ["rustc", "-D", "warnings", "-L", installed / "lib", EXAMPLES / "draw.rs", "-o", tmp_path / "draw"],
        environment,
    )
    run([tmp_path / "draw", tiny_bundle, PROMPT, tmp_path / "dog.png"], environment)
    assert_drawn(tmp_path / "dog.png", expected)


@needs("go")
def test_the_go_example_draws(installed, environment, tiny_bundle, expected, tmp_path):
    (tmp_path / "go.mod").write_text("module draw\n\ngo 1.19\n", "utf-8")
    shutil.copy(EXAMPLES / "draw.go", tmp_path)
    settings = {
        **environment,
        "CGO_CFLAGS": f"-I{installed / 'include'}",
        "CGO_LDFLAGS": f"-L{installed / 'lib'}",
        "GOCACHE": str(tmp_path / "cache"),
        "GOFLAGS": "-mod=mod",
        "GOTOOLCHAIN": "local",
    }
    run(["go", "build", "-o", "draw", "."], settings, cwd=tmp_path)
    run([tmp_path / "draw", tiny_bundle, PROMPT, tmp_path / "dog.png"], environment)
    assert_drawn(tmp_path / "dog.png", expected)


@needs("javac", "java")
def test_the_java_example_draws(compiler, installed, environment, tiny_bundle, expected, tmp_path):
    run(["javac", "-Xlint:all", "-Werror", "-h", tmp_path, "-d", tmp_path, EXAMPLES / "java" / "Draw.java"])
    java = Path(shutil.which("javac")).resolve().parents[1]
    platforms = [path for path in (java / "include").iterdir() if path.is_dir()]
    headers = [f"-I{path}" for path in (java / "include", *platforms, tmp_path, installed / "include")]
    flags = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fPIC",
        "-shared",
        *headers,
        f"-L{installed / 'lib'}",
    ]
    output = tmp_path / "libtextualvisionjni.so"
    run([compiler, *flags, EXAMPLES / "java" / "draw_jni.c", "-ltextualvision", "-o", output])
    options = [f"-Djava.library.path={tmp_path}", "-cp", tmp_path]
    run(["java", *options, "Draw", tiny_bundle, PROMPT, tmp_path / "dog.png"], environment)
    assert_drawn(tmp_path / "dog.png", expected)
