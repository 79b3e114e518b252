"""Installs d2v_tf; `make test` adds what the tests need."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="d2v_tf",
    version="0.1.0",
    description="data2vec for TensorFlow and Keras 3: self-supervised vision, speech and text",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # Installed for editing, a path, which comes before a folder of the same name: a clone's parent.
    package_dir={"": "."},
    packages=find_packages(include=["d2v_tf", "d2v_tf.*"]),
    install_requires=[
        "absl-py",
        "importlib_resources",  # tensorflow-datasets imports it without asking for it
        "jiwer>=4",  # word and letter error rates
        "keras>=3.15,<4",
        "keras-nlp>=0.32",  # installs keras-hub, the import that is used
        "matplotlib",  # pictures of what was measured
        "ml_dtypes",  # bfloat16 in files of PyTorch
        "numpy",
        "packaging",
        "pydantic>=2",
        "pyyaml",
        "rich",
        "safetensors>=0.4",  # weights of other libraries
        "scikit-learn",  # the embedded digits and the probes
        "scipy",
        "soundfile",
        "soxr",
        "tensorboard",
        "tensorflow>=2.20,<2.22",  # TPU wheels stop at 2.20
        "tensorflow-datasets>=4.9.10",
        "tensorflow-text>=2.20,<2.22",
        "threadpoolctl",  # t-SNE in one thread
        "tokenizers>=0.20",  # trains and applies byte-level BPE
    ],
    extras_require={
        # Decodes and resamples where its native operations load; 0.37, the newest, is built for
        # TensorFlow 2.16, so with the TensorFlow asked for above soundfile and soxr still do it.
        "audio-io": ["tensorflow-io>=0.37"],
        # Beam search with a language model; its wheels have KenLM inside.
        "lm": ["flashlight-text>=0.0.7"],
        # Warm-up requests of an export, and gRPC of tools/serve.py.
        "serving": ["tensorflow-serving-api>=2.19,<2.22"],
        # tools/export.py --format=onnx, and what runs such files; LiteRT's are written without.
        "onnx": ["onnx", "onnxruntime", "tf2onnx>=1.16"],
        "litert": ["ai-edge-litert"],
        # torch and transformers are what our numbers are compared with; the package needs neither.
        "test": [
            "ai-edge-litert",
            "flashlight-text>=0.0.7",
            "onnx",
            "onnxruntime",
            "pillow",
            "pytest",
            "pytest-xdist",
            "ruff",
            "tensorflow-serving-api>=2.19,<2.22",
            "tf2onnx>=1.16",
            "torch==2.13.0",
            "transformers>=5",
        ],
        "dev": ["pre-commit"],
    },
)
