"""Instruction sets: forced levels, CPUs that are too old, and object files that cannot leak code to them."""

import platform
import re
import shutil

import pytest
from building import LEVELS, SANITIZED, SCORE, run, run_here

X86 = LEVELS != ("neon",)
emulated = [
    pytest.mark.skipif(not X86, reason="emulates another x86-64 CPU"),
    pytest.mark.skipif(SANITIZED, reason="the sanitizers do not run under the emulator"),
]


# ---- Levels.


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_can_be_forced(level):
    process = run_here("-c", f"from chainrule import _kernels; print(_kernels.isa)\n{SCORE}",
                       env={"CHAINRULE_ISA": level}, check=False)  # fmt: skip
    if process.returncode:
        assert f"ImportError: CHAINRULE_ISA={level} cannot be had: this processor lacks " in process.stderr
        pytest.skip(process.stderr.splitlines()[-1])
    chosen, digest = process.stdout.split()
    assert chosen == level
    assert digest == run_here("-c", SCORE).stdout.strip()


def test_the_default_is_the_best_level():
    assert run_here("-c", "from chainrule import _kernels; print(_kernels.isa)").stdout.strip() in LEVELS
    assert run_here("-c", "import chainrule", env={"CHAINRULE_ISA": ""}).returncode == 0  # empty: as if not set


@pytest.mark.parametrize("wrong", ["AVX2", "sse9", "neon" if X86 else "avx2", "a" * 400])
@pytest.mark.parametrize("module", ["chainrule", "chainrule.cykernels"])
def test_a_wrong_level_is_an_import_error(wrong, module):
    process = run_here("-c", f"import {module}", env={"CHAINRULE_ISA": wrong}, check=False)
    expected = "avx2 or avx512 on x86-64" if X86 else "neon on aarch64"
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == f'ImportError: CHAINRULE_ISA must be {expected}, not "{wrong[:32]}"'


# ---- Other CPUs.


@pytest.fixture(scope="module")
def emulator():
    path = shutil.which("qemu-x86_64") or pytest.skip("qemu-x86_64 is not on the PATH")

    def on(cpu, code, **options):
        return run_here("-c", code, emulator=(path, "-cpu", cpu), **options)

    if on("Nehalem", "import numpy", check=False).returncode:
        pytest.skip("NumPy itself does not run on an emulated Nehalem")
    return on


@pytest.mark.parametrize(("cpu", "missing"), [("Nehalem", "avx"), ("SandyBridge", "avx2"), ("Haswell,-fma", "fma")])
class TestTooOld:
    pytestmark = emulated

    def test_import_says_what_is_missing(self, emulator, cpu, missing):
        process = emulator(cpu, "import chainrule", check=False)
        assert process.returncode == 1
        last = process.stderr.splitlines()[-1]
        assert last.startswith("ImportError: chainrule needs an x86-64-v3 processor")
        assert last.endswith(f"this one lacks {missing}")


class TestAvx2Only:
    pytestmark = emulated

    def test_same_bits(self, emulator):
        process = emulator("Haswell", f"from chainrule import _kernels; print(_kernels.isa)\n{SCORE}")
        assert process.stdout.split() == ["avx2", run_here("-c", SCORE).stdout.strip()]

    def test_avx512_cannot_be_forced(self, emulator):
        process = emulator("Haswell", "import chainrule", env={"CHAINRULE_ISA": "avx512"}, check=False)
        assert process.returncode == 1
        expected = "ImportError: CHAINRULE_ISA=avx512 cannot be had: this processor lacks avx512f"
        assert process.stderr.splitlines()[-1] == expected


# ---- Object files. A linker keeps one copy of a weak symbol, perhaps the one made for the newest CPU; a static
# initialiser runs before any check. Kernels may therefore define plain functions only, and call almost nothing.

CALLS = re.compile(
    r"chainrule::(plan_threads|parallel_for|parallel_team|asked_to_stop|give_way|arena|encode)\(.*\)"
    r"|mem(cpy|set|move|cmp)|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_"
)


@pytest.fixture(scope="module")
def symbols(wheel_build):
    """[(object, type, demangled symbol)] of every kernel."""
    if platform.system() != "Linux":
        pytest.skip("reads ELF objects")
    nm = shutil.which("nm") or pytest.skip("nm is not on the PATH")
    objects = sorted(wheel_build.folder.glob("CMakeFiles/kernels_*.dir/cpp/kernels/*.o"))
    assert len(objects) >= 7 * 2 * len(LEVELS)
    table = []
    for path in objects:
        name = f"{path.parents[2].name}/{path.name}"
        for line in run(nm, "-C", path).stdout.splitlines():
            _, kind, symbol = re.fullmatch(r"([0-9a-f]* +)(\w) (.*)", line).groups()
            table.append((name, kind, symbol))
    return table


@pytest.mark.wheel
class TestObjects:
    def test_no_symbol_is_shared(self, symbols):
        assert [s for s in symbols if s[1] in "WwVvu"] == []

    def test_no_initialisers(self, symbols):
        assert [s for s in symbols if "_GLOBAL__sub_I" in s[2] or "static_initialization" in s[2]] == []

    def test_no_writable_data(self, symbols):
        assert [s for s in symbols if s[1] in "BbDdCc"] == []

    def test_entries_are_in_their_namespace(self, symbols):
        defined = [s for s in symbols if s[1] == "T"]
        assert defined
        for name, _, symbol in defined:
            isa = name.split("_")[1]
            assert symbol.startswith(f"chainrule::{isa}::"), name

    def test_only_the_runtime_is_called(self, symbols):
        assert [s for s in symbols if s[1] == "U" and not CALLS.fullmatch(s[2])] == []
