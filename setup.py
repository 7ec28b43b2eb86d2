"""Builds the Cython core; everything else is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    ext_modules=cythonize(
        [
            Extension(
                "fastrouter._core",
                ["fastrouter/_core.pyx"],
                depends=[
                    "fastrouter/_gguf.pxi",
                    "fastrouter/_http.pxi",
                    "fastrouter/_request.pxi",
                    "fastrouter/_scan.pxi",
                    "fastrouter/_sse.pxi",
                    "fastrouter/_ring.pxi",
                    "fastrouter/_pick.pxi",
                    "fastrouter/_chain.pxi",
                    "fastrouter/_sample.pxi",
                    "fastrouter/_vocab.pxi",
                    "fastrouter/_lookup.pxi",
                ],
                extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math"],
            )
        ],
        compiler_directives={"language_level": 3},
    )
)
