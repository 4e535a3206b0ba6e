"""Install the package into build/gpu/site without a network and without touching the interpreter's own packages.

With pip, CMake and pybind11 where they are there; else the C++ module is compiled by hand for any processor of
this kind (no AVX), with pybind11's headers as torch ships them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "gpu"
SITE = WORK / "site"


def main() -> None:
    missing = [name for name in ("pip", "setuptools", "pybind11") if importlib.util.find_spec(name) is None]
    if not (importlib.util.find_spec("cmake") or shutil.which("cmake")):
        missing.append("cmake")
    shutil.rmtree(SITE, ignore_errors=True)
    if missing:
        print(f"no {', '.join(missing)} here: compiling lwm_fast._C by hand, without AVX", flush=True)
        by_hand()
    else:
        by_pip()


def by_pip() -> None:
    """Objects stay in build/gpu/base, so that a second build is quick; Python files are copied anew."""
    base = WORK / "base"
    for stale in base.glob("lib*"):
        shutil.rmtree(stale)
    WORK.mkdir(parents=True, exist_ok=True)
    config = WORK / "build.cfg"
    config.write_text(f"[build]\nbuild_base = {base}\n", encoding="utf-8")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--target", str(SITE)]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(ROOT)],
        check=True,
        env={**os.environ, "DIST_EXTRA_CONFIG": str(config)},
    )


def by_hand() -> None:
    package = SITE / "lwm_fast"
    skip = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "lwm_fast", package, ignore=skip)
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=skip)
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise SystemExit("a C++17 compiler is needed: install g++ or set CXX")
    version = re.search(r'"([^"]+)"', (ROOT / "lwm_fast" / "_version.py").read_text(encoding="utf-8"))
    assert version is not None
    command = [
        compiler, "-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-fno-math-errno",
        "-fno-trapping-math", "-ffp-contract=off", "-DLWM_ISA=portable", "-DLWM_VECTOR_BYTES=16",
        f'-DLWM_FAST_VERSION="{version[1]}"', f"-I{ROOT / 'csrc'}", f"-I{sysconfig.get_path('include')}",
        f"-I{pybind11_headers()}", *map(str, sorted((ROOT / "csrc").glob("*.cpp"))),
        "-o", str(package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def pybind11_headers() -> Path:
    for package in ("pybind11", "torch"):
        spec = importlib.util.find_spec(package)
        folder = Path(spec.origin or "").parent / "include" if spec is not None else None
        if folder is not None and (folder / "pybind11").is_dir():
            return folder
    raise SystemExit("pybind11's headers are needed: pip install pybind11, or a torch that ships them")


if __name__ == "__main__":
    main()
