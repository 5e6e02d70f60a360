"""Packages that only a part of what there is needs, and how a message names them."""

from __future__ import annotations

PACKAGES = {"mlflow": "mlflow-skinny", "torch_fidelity": "torch-fidelity"}
"""Modules whose package has another name."""


def needs(*modules: str) -> str:
    """Say which packages are missing and how they come: `needs onnx, onnxscript; pip install onnx onnxscript`.

    They are named one by one: we hold no name on an index, so that no extra of ours can be asked for there.
    """
    names = [PACKAGES.get(module, module) for module in modules]
    return f"needs {', '.join(names)}; pip install {' '.join(names)}"
