"""Which vector instructions the kernels may use, decided once at import.

``NEARHASH_SIMD`` overrides the choice with one of the names below; a level that the processor lacks is refused,
because its code would end the process with an illegal instruction.
"""

import os

from llvmlite import binding

from nearhash.errors import InvalidArgumentError

VARIABLE = "NEARHASH_SIMD"
AVX512, AVX2, NEON, GENERIC = "avx512", "avx2", "neon", "generic"

_NEEDS = {
    AVX512: ("avx512f", "avx512bw", "avx512vl", "avx512vnni"),
    AVX2: ("avx2", "fma", "f16c"),
    NEON: ("neon", "dotprod"),
    GENERIC: (),
}


def available_levels() -> list[str]:
    """Instruction-set levels that this processor can run, best first; the last is always ``generic``."""
    features = binding.get_host_cpu_features()
    return [level for level, needs in _NEEDS.items() if all(features.get(need) for need in needs)]


def choose_level(wish: str | None) -> str:
    """The level to use: the best one, or `wish` if this processor has it.

    Raises
    ------
    InvalidArgumentError
        If `wish` is not a level or not available here.
    """
    levels = available_levels()
    if not wish:
        return levels[0]
    if wish not in levels:
        raise InvalidArgumentError(f"{VARIABLE}={wish!r}: expected one of {', '.join(levels)} on this processor")
    return wish


LEVEL = choose_level(os.environ.get(VARIABLE))
