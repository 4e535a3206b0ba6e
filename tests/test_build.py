"""The package builds from its own source archive, twice, and fails clearly without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="building needs setuptools: pip install setuptools")
pytest.importorskip("pybind11", reason="building needs pybind11: pip install pybind11")

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("csrc", "kernels", "lwm_fast", "tests")
FILES = ("CMakeLists.txt", "MANIFEST.in", "pyproject.toml", "setup.py", "README.md", "LICENSE")
MODULE = f"_C.*{'.pyd' if os.name == 'nt' else '.so'}"

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources, so that building leaves nothing in the real one."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in SOURCES:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
        )
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500
    )


def pip(*arguments: str | Path, cwd: Path) -> None:
    done = run(
        sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments,
        cwd=cwd, CMAKE_ARGS="-DLWM_FAST_WERROR=ON",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_sdist_to_wheel_to_import(checkout: Path, tmp_path: Path) -> None:
    code = "import setuptools.build_meta as b; print(b.build_sdist('../dist'))"
    done = run(sys.executable, "-c", code, cwd=checkout)
    assert done.returncode == 0, done.stderr
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = [
        "CMakeLists.txt",
        "csrc/module.cpp",
        "csrc/parallel.h",
        "kernels/__init__.py",
        "lwm_fast/_C.pyi",
        "lwm_fast/weights/lwm-fast-base/SHA256SUMS",
        "lwm_fast/weights/lwm-fast-base/model.safetensors",
    ]
    assert names.issuperset(tracked)
    pip("wheel", "--no-build-isolation", "--no-deps", "-w", tmp_path / "wheels", sdist, cwd=tmp_path)
    (wheel,) = (tmp_path / "wheels").glob("lwm_fast-*.whl")
    target = tmp_path / "installed"
    pip("install", "--no-deps", "--target", target, wheel, cwd=tmp_path)

    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import numpy as np, lwm_fast._C as c, lwm_fast.kernels as k\n"
        "from lwm_fast._version import __version__\n"
        "assert c.__version__ == __version__\n"
        "from lwm_fast.weights import DEFAULT, folder_of\n"
        f"assert folder_of(DEFAULT).is_relative_to({str(target)!r})\n"
        "print(c.__file__, k.__file__, sep='\\n')"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    module, kernels = done.stdout.split()
    assert Path(module).is_relative_to(target)
    assert Path(kernels).is_relative_to(target)
    assert (target / "lwm_fast" / "py.typed").exists()
    if shutil.which("ldd"):
        libraries = run("ldd", module, cwd=tmp_path).stdout
        assert "libstdc++" in libraries
        assert "torch" not in libraries
        assert "gomp" not in libraries


def test_second_build_in_the_same_tree_and_a_failing_one(checkout: Path) -> None:
    build = (sys.executable, "setup.py", "build_ext", "--inplace")
    for _ in range(2):
        done = run(*build, cwd=checkout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list((checkout / "lwm_fast").glob(MODULE))

    # An inline function emitted with AVX-512 code must not be one the linker may choose for everybody.
    if shutil.which("nm"):
        for vector_object in (checkout / "build").rglob("lwm_avx*.dir/csrc/*.o"):
            symbols = run("nm", "--defined-only", vector_object, cwd=checkout).stdout.splitlines()
            assert not [line for line in symbols if line.split()[-2] in "WwVvu"], vector_object.name

    # Broken source: the compiler's message is shown and the older module is gone.
    source = checkout / "csrc" / "packing.cpp"
    source.write_text(source.read_text() + "\nthis is no C++\n")
    done = run(*build, cwd=checkout)
    assert done.returncode != 0
    assert "packing.cpp" in done.stdout + done.stderr
    assert not list((checkout / "lwm_fast").glob(MODULE))


@pytest.mark.skipif(os.name == "nt", reason="there CMake finds the compiler by itself")
def test_missing_compiler_is_named(checkout: Path) -> None:
    older = checkout / "lwm_fast" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    older.touch()
    done = run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=checkout, CXX="no-such-compiler")
    assert done.returncode != 0
    assert "needs a C++17 compiler and found none of: no-such-compiler" in done.stderr
    assert "set CXX" in done.stderr
    assert not older.exists()
