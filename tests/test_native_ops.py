"""lwm_fast._C below its wrappers: argument checks, instruction sets, threads, fork, sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import native_outputs
import numpy as np
import pytest

from lwm_fast import _C

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
ISAS = _C.cpu_info()["available_isas"]


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def packed() -> dict[str, Any]:
    """Two v1.1 samples of 4 x 4 and 5 x 8: 16 + 40 values, 2 + 5 tokens."""
    return {
        "csi": np.ones(56, np.complex64),
        "offsets": np.array([0, 16, 56]),
        "shape": np.array([[4, 4], [5, 8]], np.int32),
        "cu_seqlens": np.array([0, 2, 7], np.int32),
        "scale": np.ones(1, np.float32),
        "cls": np.zeros(32, np.float32),
        "out": np.full((7, 32), np.nan, np.float32),
        "version": 11,
    }


def test_packed_arguments_are_good() -> None:
    arguments = packed()
    _C.tokenize(**arguments)
    assert np.isfinite(arguments["out"]).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"csi": [1j]},
            TypeError,
            r"csi: expected a C-contiguous complex64 array of shape \[any\], got list",
        ),
        ({"csi": np.ones(56)}, TypeError, r"csi: .* got dtype float64; convert"),
        ({"csi": np.ones(56, ">c8")}, TypeError, r"csi: .* got dtype >c8"),
        ({"csi": np.ones(112, np.complex64)[::2]}, ValueError, r"csi: .* strided or unaligned"),
        ({"csi": np.ones((7, 8), np.complex64)}, ValueError, r"csi: .* got shape \[7, 8\]"),
        ({"csi": np.ones(55, np.complex64)}, ValueError, r"offsets ends at 56 but csi holds 55"),
        ({"offsets": np.array([0, 16])}, ValueError, r"offsets: .* shape \[3\], got shape \[2\]"),
        ({"offsets": np.array([0, 16, 56], np.int32)}, TypeError, r"offsets: .*int64.* got dtype int32"),
        ({"offsets": np.array([-8, 8, 48])}, ValueError, r"offsets\[0\] is -8"),
        ({"offsets": np.array([16, 0, 40])}, ValueError, r"offsets\[1\] is 0, less than offsets\[0\] = 16"),
        ({"offsets": np.array([0, 15, 56])}, ValueError, r"sample 0 15 values but shape\[0\] is 4 x 4 = 16"),
        ({"shape": np.array([[4, 4], [0, 8]], np.int32)}, ValueError, r"shape\[1\] is 0 x 8"),
        ({"shape": np.array([[-4, -4], [5, 8]], np.int32)}, ValueError, r"shape\[0\] is -4 x -4"),
        ({"shape": np.full((2, 2), 2**31 - 1, np.int32)}, ValueError, r"4611686014132420609"),
        ({"cu_seqlens": np.array([0, 3, 7], np.int32)}, ValueError, r"sample 0 3 tokens .* has 2"),
        (
            {"cu_seqlens": np.array([2, 4, 9], np.int32)},
            ValueError,
            r"cu_seqlens ends at 9 but tokens holds 7",
        ),
        ({"cu_seqlens": np.zeros(0, np.int32)}, ValueError, r"cu_seqlens: expected batch \+ 1 entries"),
        ({"scale": np.ones(3, np.float32)}, ValueError, r"scale: .* shape \[2\], got shape \[3\]"),
        ({"scale": 1.0}, TypeError, r"scale: .* got float"),
        ({"cls": np.zeros(16, np.float32)}, ValueError, r"cls: .* shape \[32\], got shape \[16\]"),
        ({"cls": np.zeros((3, 32), np.float32)}, ValueError, r"cls: .* shape \[2, 32\]"),
        ({"out": np.zeros((7, 16), np.float32)}, ValueError, r"out: .* shape \[any, 32\]"),
        ({"out": np.zeros((6, 32), np.float32)}, ValueError, r"cu_seqlens ends at 7 but tokens holds 6"),
        ({"version": 12}, ValueError, r"version: got 12"),
        ({"version": 10}, ValueError, r"out: .* shape \[any, 16\]"),
        ({"num_threads": -1}, ValueError, r"num_threads: got -1"),
    ],
)
def test_bad_packing(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {**packed(), **change}
    with pytest.raises(error, match=message):
        _C.tokenize(**arguments)
    if arguments["out"].shape == (7, 32):
        assert np.isnan(arguments["out"]).all()  # refused before the first write


def test_read_only_overlapping_and_unaligned_buffers() -> None:
    arguments = packed()
    arguments["out"].flags.writeable = False
    with pytest.raises(ValueError, match=r"out: .* got a read-only one"):
        _C.tokenize(**arguments)
    memory = np.zeros(7 * 32, np.float32)
    arguments = {**packed(), "csi": memory[:112].view(np.complex64), "out": memory.reshape(7, 32)}
    with pytest.raises(ValueError, match="out shares memory with csi"):
        _C.tokenize(**arguments)
    odd = np.zeros(7 * 32 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(7, 32)
    with pytest.raises(ValueError, match="strided or unaligned"):
        _C.tokenize(**{**packed(), "out": odd})


def test_v10_size_that_is_no_multiple_of_16() -> None:
    with pytest.raises(ValueError, match=r"shape\[0\] is 3 x 5 = 15 values: LWM v1.0 needs a multiple of 16"):
        _C.tokenize(
            np.ones(15, np.complex64), np.array([0, 15]), np.array([[3, 5]], np.int32),
            np.array([0, 2], np.int32), np.ones(1, np.float32), np.zeros(16, np.float32),
            np.zeros((2, 16), np.float32), 10,
        )  # fmt: skip


def test_check_csi() -> None:
    rng = np.random.default_rng(0)
    csi = rng.standard_normal(2 * 700, np.float32).view(np.complex64)
    offsets = np.array([0, 100, 100, 133, 300, 301, 500, 700])
    csi[110] = complex(0.0, np.nan)
    csi[133:300] = -0.0
    csi[300] = complex(-np.inf, 0.0)
    csi[499] = 1e-42 + 0j  # the smallest numbers are not zero
    csi[301:499] = 0
    csi[500:700] = 3e30 + 4e30j  # squares that float32 does not hold
    for num_threads in (1, 2, 3):
        flags, mean_abs = np.full(7, 99, np.uint8), np.full(7, np.nan, np.float32)
        _C.check_csi(csi, offsets, flags, mean_abs, num_threads)
        assert flags.tolist() == [0, 2, 1, 2, 1, 0, 0]
        np.testing.assert_allclose(mean_abs[0], np.abs(csi[:100]).mean(), rtol=1e-6)
        assert mean_abs[1] == 0
        assert np.isnan(mean_abs[2])
        assert mean_abs[3] == 0
        assert mean_abs[4] == np.inf
        np.testing.assert_allclose(mean_abs[6], 5e30, rtol=1e-6)
    with pytest.raises(ValueError, match="offsets ends at 700 but csi holds 699"):
        _C.check_csi(csi[:699], offsets, flags)


@pytest.mark.parametrize("isa", ISAS)
def test_every_isa_agrees(isa: str, tmp_path: Path) -> None:
    """Bit for bit, but for rays_to_csi, where products may be fused with sums (measured: 7e-8)."""
    done = run_python(str(TESTS / "native_outputs.py"), str(tmp_path / "out.npz"), LWM_FAST_ISA=isa)
    assert done.returncode == 0, done.stderr
    here = native_outputs.outputs()
    with np.load(tmp_path / "out.npz") as there:
        assert there["isa"] == isa
        for name, expected in here.items():
            if name == "rays":
                error = np.linalg.norm(there[name] - expected) / np.linalg.norm(expected)
                assert error < 3e-7
            else:
                np.testing.assert_array_equal(there[name], expected, err_msg=name)


def test_unknown_isa_is_refused() -> None:
    done = run_python("-c", "from lwm_fast import _C; _C.cpu_info()", LWM_FAST_ISA="sse9")
    assert done.returncode != 0
    assert "LWM_FAST_ISA=sse9 cannot run here" in done.stderr
    assert "portable" in done.stderr


def test_number_of_threads_from_the_environment() -> None:
    code = "from lwm_fast import _C; print(_C.cpu_info()['num_threads'])"
    assert run_python("-c", code, LWM_FAST_NUM_THREADS="3").stdout.strip() == "3"
    for bad in ("0", "two", "-4", "2x", "99999999999999999999"):
        done = run_python("-c", code, LWM_FAST_NUM_THREADS=bad)
        assert f"LWM_FAST_NUM_THREADS={bad} is not a number of threads" in done.stderr
    if hasattr(os, "sched_getaffinity"):
        expected = str(len(os.sched_getaffinity(0)))
        assert run_python("-c", code, LWM_FAST_NUM_THREADS="").stdout.strip() == expected


def test_cpu_info() -> None:
    info = _C.cpu_info()
    assert info["isa"] in info["available_isas"]
    assert info["available_isas"][0] == "portable"
    assert info["num_threads"] >= 1
    if "avx512" in info["available_isas"]:
        assert "avx512f" in info["features"]


def test_version_of_the_module() -> None:
    from lwm_fast._version import __version__

    assert _C.__version__ == __version__


FORK = """
import os, signal, sys
import numpy as np
from lwm_fast.tokens import tokenize
csi = np.random.default_rng(0).standard_normal((600, 32, 64), np.float32).view(np.complex64)
expected = tokenize(csi, "1.1", snr_db=3.0, num_threads=4)
for generation in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        for num_threads in (1, 4):
            if not np.array_equal(tokenize(csi, "1.1", snr_db=3.0, num_threads=num_threads), expected):
                os._exit(1)
        if generation == 0 and os.fork() == 0:
            os._exit(int(not np.array_equal(tokenize(csi, "1.1", snr_db=3.0, num_threads=3), expected)))
        if generation == 0 and os.waitstatus_to_exitcode(os.wait()[1]) != 0:
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        sys.exit(f"child ended with {code}")
    assert np.array_equal(tokenize(csi, "1.1", snr_db=3.0, num_threads=4), expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_children_of_a_process_that_used_threads() -> None:
    done = run_python("-c", FORK)
    assert done.returncode == 0, done.stderr


def test_calls_from_several_python_threads() -> None:
    expected = native_outputs.outputs()
    failures: list[str] = []

    def work() -> None:
        for _ in range(5):
            mine = native_outputs.outputs()
            failures.extend(name for name in expected if not np.array_equal(mine[name], expected[name]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture(scope="module")
def sanitized_core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzz driver, built with address and undefined-behaviour sanitizers."""
    if not sys.platform.startswith("linux"):
        pytest.skip("sanitizers are set up for Linux")
    beside_python = str(Path(sys.executable).parent)
    cmake = shutil.which("cmake", path=os.pathsep.join([beside_python, os.environ.get("PATH", "")]))
    if cmake is None:
        pytest.skip("cmake is neither on PATH nor beside python: pip install cmake")
    folder = tmp_path_factory.mktemp("sanitize")
    options = ["-DLWM_FAST_SANITIZE=ON", "-DLWM_FAST_WERROR=ON"]
    for command in (
        [cmake, f"-S{ROOT}", f"-B{folder}", *options],
        [cmake, "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if "libasan" in done.stderr + done.stdout and done.returncode != 0:
            pytest.skip("the compiler has no sanitizer runtime")
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "lwm_fast_sanitize"


# Few rounds a code path: `make sanitize` runs 200 of the best one. A round takes 1 to 2 s, more on a busy machine.
@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_core_under_sanitizers(isa: str, sanitized_core: Path) -> None:
    done = subprocess.run(
        [sanitized_core, "10"], env={**os.environ, "LWM_FAST_ISA": isa}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"passed with {isa} code" in done.stdout
