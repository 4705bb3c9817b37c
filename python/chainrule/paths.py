"""Where other builds find the C ABI of an installed chainrule."""

from pathlib import Path


def get_include() -> str:
    """Folder of ``chainrule/chainrule.h``, for C, C++ and Cython compilers."""
    return str(Path(__file__).parent / "include")


def get_cmake_dir() -> str:
    """Folder of ``chainruleConfig.cmake``: pass it as ``-Dchainrule_DIR=`` to CMake."""
    return str(Path(__file__).parent / "cmake")
