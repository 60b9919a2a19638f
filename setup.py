"""Builds the kernel beside the package, and turns links of the README for who reads it elsewhere; all else is in
pyproject.toml.

`HF_MPQ_KERNEL=required` makes it an error that the kernel cannot be built. `HF_MPQ_ADDRESS` is where the repository can
be read, as `https://host/owner/name`: with it the metadata have their links.
"""

import os
import re
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "hf_mpq/runtime/native/kernel"
FLAGS = ["-std=c++17", "-O2", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-g0", "-w"]
ADDRESS = os.environ.get("HF_MPQ_ADDRESS", "").rstrip("/")
PAGES = {"Source": "", "Documentation": "/blob/HEAD/docs/index.md", "Changelog": "/blob/HEAD/CHANGELOG.md"}
LINK = re.compile(r"(!?)(\[[^\]]*\]\()(?!\w+:|#)([^)\s]+\))")


def readme():
    """With links to files of the repository that arrive from anywhere; as it is, where nobody says where that is."""
    text = Path("README.md").read_text(encoding="utf-8")
    if not ADDRESS:
        return text
    return LINK.sub(lambda one: f"{one[1]}{one[2]}{ADDRESS}/{'raw' if one[1] else 'blob'}/HEAD/{one[3]}", text)


class Kernel(build_ext):
    """One shared object that knows no Python, and is called by ctypes. Where it cannot be built, the package is
    installed without it."""

    def build_extensions(self):
        """With a compiler for each core, as no source needs another."""
        of_several = self.compiler.compile

        def compile(sources, *given, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                found = pool.map(lambda one: of_several([one], *given, **options), sources)
                return [made for of_one in found for made in of_one]

        self.compiler.compile = compile
        super().build_extensions()

    def get_ext_filename(self, name):
        """By the same name for every Python."""
        return os.path.join(*name.split(".")) + (".pyd" if sys.platform == "win32" else ".so")


class Wheel(bdist_wheel):
    """One wheel for every Python on a platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls={name: f"{ADDRESS}{path}" for name, path in PAGES.items()} if ADDRESS else {},
    ext_modules=[
        Extension(
            "hf_mpq.runtime.native._kernel",
            sorted(glob(f"{FOLDER}/*.cpp")),
            depends=sorted(glob(f"{FOLDER}/*.h")),
            define_macros=[("HF_MPQ_INTERFACE", f"{zlib.crc32(Path(FOLDER, 'interface.h').read_bytes())}u")],
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
            optional=os.environ.get("HF_MPQ_KERNEL") != "required",
        )
    ],
    cmdclass={"bdist_wheel": Wheel, "build_ext": Kernel},
)
