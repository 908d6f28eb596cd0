"""Hash functions that collide for what is similar: sketches of sets, hashes of vectors, and what they estimate."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nearhash.hashing.banding import Banding
    from nearhash.hashing.cross_polytope import CrossPolytope
    from nearhash.hashing.dwta import DWTA
    from nearhash.hashing.e2lsh import E2LSH
    from nearhash.hashing.kernel_density import KernelDensity
    from nearhash.hashing.learned import LearnedHash
    from nearhash.hashing.minhash import MinHash
    from nearhash.hashing.mips import InnerProductTransform
    from nearhash.hashing.records import RecordFeatures
    from nearhash.hashing.sampler import LSHSampler
    from nearhash.hashing.simhash import SimHash
    from nearhash.hashing.sketches import Sketches
    from nearhash.hashing.texts import Shingler
    from nearhash.hashing.weighted import WeightedMinHash

_HOME = {
    "Banding": "banding",
    "CrossPolytope": "cross_polytope",
    "DWTA": "dwta",
    "E2LSH": "e2lsh",
    "InnerProductTransform": "mips",
    "KernelDensity": "kernel_density",
    "LSHSampler": "sampler",
    "LearnedHash": "learned",
    "MinHash": "minhash",
    "RecordFeatures": "records",
    "Shingler": "texts",
    "SimHash": "simhash",
    "Sketches": "sketches",
    "WeightedMinHash": "weighted",
}

__all__ = [
    "DWTA",
    "E2LSH",
    "Banding",
    "CrossPolytope",
    "InnerProductTransform",
    "KernelDensity",
    "LSHSampler",
    "LearnedHash",
    "MinHash",
    "RecordFeatures",
    "Shingler",
    "SimHash",
    "Sketches",
    "WeightedMinHash",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nearhash.hashing' has no attribute {name!r}")
    value = getattr(import_module(f"nearhash.hashing.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
