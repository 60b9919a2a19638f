"""Builds the kernel beside the package; all else is in pyproject.toml."""

import os
import sys
import zlib
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "hf_mpq/runtime/native/kernel"
FLAGS = ["-std=c++17", "-O2", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-g0", "-w"]


class Kernel(build_ext):
    """One shared object that knows no Python, and is called by ctypes. Where it cannot be built, the package is
    installed without it."""

    def get_ext_filename(self, name):
        """By the same name for every Python."""
        return os.path.join(*name.split(".")) + (".pyd" if sys.platform == "win32" else ".so")


class Wheel(bdist_wheel):
    """One wheel for every Python on a platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "hf_mpq.runtime.native._kernel",
            sorted(glob(f"{FOLDER}/*.cpp")),
            depends=sorted(glob(f"{FOLDER}/*.h")),
            define_macros=[("HF_MPQ_INTERFACE", f"{zlib.crc32(Path(FOLDER, 'interface.h').read_bytes())}u")],
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
            optional=True,
        )
    ],
    cmdclass={"bdist_wheel": Wheel, "build_ext": Kernel},
)
