"""Builds the Cython core; everything else is in pyproject.toml."""

from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastrouter._core",
                ["fastrouter/_core.pyx"],
                depends=glob("fastrouter/core/*.pxi"),
                extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math"],
            )
        ],
        compiler_directives={"language_level": 3},
    )
)
