"""Builds lwm_fast._C with CMake; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """The version in lwm_fast/_version.py, read as text: importing the package would need torch."""
    text = (ROOT / "lwm_fast" / "_version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError('lwm_fast/_version.py must hold a line __version__ = "..."')
    return match.group(1)


def find_tool(name: str, module_attribute: str) -> str | None:
    """Path of a build tool: from its pip package if importable, else from PATH."""
    try:
        folder = getattr(importlib.import_module(name), module_attribute)
    except (ImportError, AttributeError):
        return shutil.which(name)
    return shutil.which(name, path=folder) or shutil.which(name)


def require_compiler() -> None:
    if os.name == "nt":
        return  # CMake finds Visual Studio by itself
    named = os.environ.get("CXX", "").split()
    candidates = named[:1] or ["c++", "g++", "clang++"]
    if not any(shutil.which(candidate) for candidate in candidates):
        raise CompileError(
            f"lwm_fast needs a C++17 compiler and found none of: {', '.join(candidates)}. "
            "Install one (Debian/Ubuntu: apt install g++) or set CXX to it."
        )


class CMakeBuild(build_ext):
    """Runs CMake in build_temp and copies the finished module to where setuptools wants it."""

    def run(self) -> None:
        # Gone before anything can fail: a broken build must not leave an older module in use.
        if self.inplace or getattr(self, "editable_mode", False):
            for ext in self.extensions:
                (ROOT / self.get_ext_filename(ext.name)).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.unlink(missing_ok=True)
        require_compiler()
        cmake = find_tool("cmake", "CMAKE_BIN_DIR")
        if cmake is None:
            raise CompileError("lwm_fast needs CMake >= 3.18 and found none: pip install cmake")
        built = self.run_cmake(cmake, Path(self.build_temp).resolve() / "cmake", target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, target)

    def run_cmake(self, cmake: str, folder: Path, file_name: str) -> Path:
        import pybind11

        folder.mkdir(parents=True, exist_ok=True)
        # An isolated build environment is gone after its build, and its paths in the cache with it.
        (folder / "CMakeCache.txt").unlink(missing_ok=True)
        shutil.rmtree(folder / "CMakeFiles" / "pkgRedirects", ignore_errors=True)
        output = folder / "module"
        shutil.rmtree(output, ignore_errors=True)
        configure = [
            cmake,
            f"-S{ROOT}",
            f"-B{folder}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY_RELEASE={output}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DLWM_FAST_VERSION={read_version()}",
        ]
        ninja = find_tool("ninja", "BIN_DIR")
        if ninja is not None:
            configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        configure += os.environ.get("CMAKE_ARGS", "").split()
        build = [cmake, "--build", str(folder), "--config", "Release", "--target", "_C"]
        if self.parallel:
            build += ["--parallel", str(self.parallel)]
        for command in (configure, build):
            result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if result.returncode != 0:
                raise CompileError(
                    f"building lwm_fast._C failed (exit code {result.returncode}):\n{result.stdout}\n"
                    f"command: {' '.join(command)}\n"
                    "lwm_fast needs a working C++17 compiler (g++ >= 9 or clang++ >= 10) and the headers of "
                    f"Python {sys.version_info.major}.{sys.version_info.minor}."
                )
            self.announce(result.stdout, level=2)
        built = output / file_name
        if not built.is_file():
            raise CompileError(
                f"CMake built {sorted(p.name for p in output.iterdir())}, expected {file_name}"
            )
        return built


kernel_packages = ["lwm_fast.kernels"] + [f"lwm_fast.kernels.{name}" for name in find_packages("kernels")]

setup(
    version=read_version(),
    packages=find_packages(include=["lwm_fast", "lwm_fast.*"]) + kernel_packages,
    package_dir={"lwm_fast.kernels": "kernels"},
    package_data={
        "lwm_fast": ["_C.pyi", "py.typed"],
        "lwm_fast.training": ["recipes/*.yaml"],
        "lwm_fast.weights": ["*/*"],
    },
    ext_modules=[Extension("lwm_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
