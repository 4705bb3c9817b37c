"""What is written twice agrees: the compiled module and its stub, the C header and the Cython declarations."""

import ast
import re
from pathlib import Path

import chainrule
import pytest
from building import SOURCE
from chainrule import _kernels

PACKAGE = Path(chainrule.__file__).parent
HEADER = Path(chainrule.get_include()) / "chainrule" / "chainrule.h"
if not HEADER.exists():  # run from the sources
    HEADER = SOURCE / "cpp/include/chainrule/chainrule.h"


@pytest.fixture(scope="module")
def stub():
    """Name -> argument names of a function, or None for a value."""
    names = {}
    for node in ast.parse((PACKAGE / "_kernels.pyi").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = [argument.arg for argument in node.args.args]
        elif isinstance(node, ast.AnnAssign):
            names[node.target.id] = None
        elif isinstance(node, ast.ClassDef):
            names[node.name] = None
    return names


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()


def test_stub_has_every_name(stub):
    assert {name for name in vars(_kernels) if not name.startswith("__")} == set(stub)


def test_stub_has_every_argument(stub):
    for name, arguments in stub.items():
        if arguments is not None:
            signature = getattr(_kernels, name).__doc__.splitlines()[0]
            assert re.findall(r"(\w+): ", signature) == arguments, signature


def test_stub_has_every_member_of_the_classes():
    for node in ast.parse((PACKAGE / "_kernels.pyi").read_text()).body:
        if isinstance(node, ast.ClassDef):
            written = {item.name if isinstance(item, ast.FunctionDef) else item.target.id for item in node.body}
            members = {name for name in vars(getattr(_kernels, node.name)) if not name.startswith("_")}
            assert written - {"__init__"} == members, node.name
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    signature = getattr(getattr(_kernels, node.name), item.name).__doc__.splitlines()[0]
                    arguments = [argument.arg for argument in item.args.args]
                    assert re.findall(r"(\w+): ", signature) == arguments, signature


def test_pxd_declares_the_table_of_the_header():
    header = HEADER.read_text()
    pxd = re.sub(r"#.*", "", (PACKAGE / "cykernels.pxd").read_text())
    kernels = re.search(r"#define CHAINRULE_KERNELS\(K\)(.*?)\n\n", header, re.DOTALL).group(1)
    for name, suffix in re.findall(r"K\((\w+), (\w+)\)", kernels):
        assert re.search(rf"^ +chainrule_{name}_{suffix}_fn \*{name}_{suffix}$", pxd, re.MULTILINE), (name, suffix)
    for name in ("uniforms", "encode"):
        assert re.search(rf"^ +chainrule_{name}_fn \*{name}$", pxd, re.MULTILINE), name
    for name in re.findall(r"^ +(CHAINRULE_\w+) = ", header, re.MULTILINE):
        if name not in ("CHAINRULE_OK", "CHAINRULE_NO_MEMORY", "CHAINRULE_INTERRUPTED"):
            assert re.search(rf"\b{name}\b", pxd), name


def test_pxd_declares_every_struct_with_its_members():
    header = re.sub(r"/\*.*?\*/|\\$", "", HEADER.read_text(), flags=re.DOTALL | re.MULTILINE)
    pxd = re.sub(r"#.*", "", (PACKAGE / "cykernels.pxd").read_text())
    structs = re.findall(r"typedef struct (chainrule_\w+?)(?:##S)? \{(.*?)\} \1", header, re.DOTALL)
    assert len(structs) >= 10
    for name, body in structs:
        if name == "chainrule_api":
            continue  # above
        members = re.findall(r"\(\*(\w+)\)|(\w+)(?=[,;])", re.sub(r"\([^()]*\);", ";", body))
        for suffix in ("f32", "f64") if name.endswith("_") else ("",):
            declared = re.search(rf"ctypedef struct {name}{suffix}:\n(.*?)(?=\n    \S|\Z)", pxd, re.DOTALL)
            assert declared, name + suffix
            for member in {a or b for a, b in members}:
                assert re.search(rf"\b{member}\b", declared.group(1)), (name, member)


def test_version_is_written_once():
    assert chainrule.__version__ == _kernels.version
    if (SOURCE / "CMakeLists.txt").exists():
        assert f"project(chainrule VERSION {_kernels.version} " in (SOURCE / "CMakeLists.txt").read_text()
    assert _kernels.abi_version == int(re.search(r"CHAINRULE_ABI_VERSION (\d+)", HEADER.read_text()).group(1))
