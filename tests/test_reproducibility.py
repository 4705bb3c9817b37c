"""The contract of docs/reproducibility.md: one digest for every instruction set, number of threads and split of rows.

CHAINRULE_GOLDEN=write python -m pytest tests/test_reproducibility.py writes tests/golden/digest.txt anew, then holds
every level, NEON under emulation included, against it.
"""

import os
import platform
import shutil

import pytest
from building import LEVELS, SOURCE, run

GOLDEN = SOURCE / "tests" / "golden" / "digest.txt"
X86 = platform.machine() in ("x86_64", "AMD64")
SPLITS = [(1, 0), (2, 0), (3, 0), (1, 1), (2, 5), (3, 7)]  # threads, rows of one call (0: all)

pytestmark = pytest.mark.wheel


def digest(command, level, **environment):
    """The program's lines, or a skip where this CPU lacks the level."""
    process = run(*command, env={"OMP_WAIT_POLICY": "passive", **environment}, check=False)
    if process.returncode == 2:
        pytest.skip(process.stderr.strip())
    assert process.returncode == 0, process.stderr
    assert level in process.stderr
    return process.stdout.splitlines()


@pytest.fixture(scope="session")
def golden(digest_program):
    if os.environ.get("CHAINRULE_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text("\n".join(digest([digest_program, 1], LEVELS[0], CHAINRULE_ISA=LEVELS[0])) + "\n")
    return GOLDEN.read_text().splitlines()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("threads", "rows"), SPLITS)
def test_digest(digest_program, golden, level, threads, rows):
    assert digest([digest_program, threads, rows], level, CHAINRULE_ISA=level) == golden


def test_digest_covers_every_kernel(golden):
    """A kernel in the table without a line here is outside the contract."""
    header = (SOURCE / "cpp/include/chainrule/chainrule.h").read_text()
    table = header[header.index("#define CHAINRULE_KERNELS(K)") : header.index("typedef struct chainrule_api")]
    for entry in table.split("K(")[2:]:
        name, suffix = entry.split(")")[0].split(", ")
        assert any(line.startswith(f"{name}_") and f"_{suffix} " in line for line in golden), (name, suffix)


@pytest.mark.skipif(not X86, reason="emulates another x86-64 CPU")
def test_digest_on_an_emulated_avx2_cpu(digest_program, golden):
    emulator = shutil.which("qemu-x86_64") or pytest.skip("qemu-x86_64 is not on the PATH")
    assert digest([emulator, "-cpu", "Haswell", digest_program, 2], "avx2") == golden


@pytest.mark.skipif(LEVELS == ("neon",), reason="NEON is native here")
def test_digest_of_neon_under_emulation(workshop, golden):
    """Cross-compiled and static, as .ci/neon.sh does it."""
    compiler = shutil.which("aarch64-linux-gnu-g++") or pytest.skip("aarch64-linux-gnu-g++ is not on the PATH")
    emulator = shutil.which("qemu-aarch64") or pytest.skip("qemu-aarch64 is not on the PATH")
    folder = workshop / "neon"
    run(
        *("cmake", "-S", SOURCE, "-B", folder, "-DCHAINRULE_TOOLS=ON", f"-DCMAKE_CXX_COMPILER={compiler}"),
        *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"),
    )
    run("cmake", "--build", folder, "--target", "chainrule_digest")
    for threads, rows in [(1, 0), (3, 5)]:
        assert digest([emulator, folder / "chainrule_digest", threads, rows], "neon") == golden
