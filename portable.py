"""The portable mode, --portable True: bitwise identical results on all x86-64 processors with AVX2 and FMA.

Libraries run different code on different processors, with different rounding. Environment variables, read when a
library is loaded, select the code. There are no such variables for the square root in tools/training/adam.py and the
logarithm in datasets/log_mel.py, which these files handle themselves.
"""

import os
import platform
import re
import sys
from pathlib import Path

import startup
from config import BaselineError, Config

VARIABLES = {
    "MKL_CBWR": "COMPATIBLE",  # PyTorch's matrix products and inverses: the same code on all processors
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's other operations
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's and SciPy's matrix products
    # NumPy's other operations: nothing beyond AVX2. First the names in NumPy 2.4, then those in NumPy 2.2.
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR "
    "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_KNL AVX512_KNM",
    "OMP_NUM_THREADS": "1",  # sums depend on the number of threads
}
PREFIXES = ("MKL_", "ATEN_", "OPENBLAS_", "NPY_", "ONEDNN_", "DNNL_")  # other variables of these libraries are removed
LIBRARIES = {"numpy", "torch"}
STARTED_OVER = "PORTABLE_STARTED_OVER"  # environment variable, set before a restart so that it happens only once
CPUINFO = Path("/proc/cpuinfo")


def start_portable(config: Config) -> None:
    """Enable the portable mode of this command, if --portable is true.

    The variables must be set before the libraries are loaded. If a library is already loaded, the command is restarted
    once.

    Raises:
        BaselineError: this machine or session does not support it, or packages differ from requirements.txt.
    """
    if not config.portable:
        return
    if reason := unsuitable():
        raise BaselineError(f"--portable True needs Linux on an x86-64 processor with AVX2 and FMA; {reason}.")
    if startup.is_command and not is_set() and STARTED_OVER not in os.environ:
        set_variables()
        if LIBRARIES & sys.modules.keys():
            os.environ[STARTED_OVER] = "1"
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    check_portable(config)


def check_portable(config: Config) -> None:
    """Check that the libraries are in portable mode, if --portable is true.

    Raises:
        BaselineError: they are not.
    """
    if not config.portable:
        return
    if not is_set():
        settings = " ".join(f"{name}='{value}'" for name, value in VARIABLES.items())
        raise BaselineError(
            f"--portable True: start Python with {settings}, and unset other variables {'* '.join(PREFIXES)}*."
        )
    import numpy as np
    import torch
    from threadpoolctl import threadpool_info

    numpy_features = {*np.show_config(mode="dicts")["SIMD Extensions"].get("found", ())}
    blas = {library.get("architecture", "unknown") for library in threadpool_info() if library["user_api"] == "blas"}
    found = {
        "PyTorch's matrix products": torch.backends.mkl.is_available(),
        "PyTorch's operations": torch.backends.cpu.get_cpu_capability() == "AVX2",
        "NumPy's matrix products": blas == {"Haswell"},
        "NumPy's operations": not numpy_features & {*VARIABLES["NPY_DISABLE_CPU_FEATURES"].split()},
    }
    if wrong := [name for name, is_right in found.items() if not is_right]:
        raise BaselineError(
            f"--portable True: {' and '.join(wrong)} depend on the processor here. In a notebook, restart it with "
            "the variables in portable.py. Otherwise install the packages in requirements.txt."
        )


def unsuitable() -> str:
    """Why this machine does not support the portable mode, or an empty string if it does."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"this is {platform.system()} on {platform.machine()}"
    try:
        flags = re.search(r"^flags\s*:(.*)", CPUINFO.read_text(), re.MULTILINE)[1].split()
    except (OSError, TypeError):
        return f"the features of this one are unknown: no flags in {CPUINFO}"
    missing = [name for name in ("avx2", "fma") if name not in flags]
    return f"this one has no {' and no '.join(missing)}" if missing else ""


def is_set() -> bool:
    """Whether the variables are set, and no other variables of these libraries."""
    return {
        name: os.environ[name] for name in os.environ if name in VARIABLES or name.startswith(PREFIXES)
    } == VARIABLES


def set_variables() -> None:
    """Set the variables for libraries and processes that start later. On an unsupported machine, do nothing."""
    if unsuitable():
        return
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        del os.environ[name]
    os.environ.update(VARIABLES)
