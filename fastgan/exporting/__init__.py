"""A generator for other machines: a folder with weights and a card, and programs that run without fastgan."""

from fastgan.exporting.card import card_of
from fastgan.exporting.folder import (
    ModelFolderError,
    is_model_folder,
    load_model_folder,
    save_generator,
)
from fastgan.exporting.programs import (
    BATCH_SIZES,
    describe_program,
    export_onnx,
    export_program,
    export_torch,
    require_onnx,
)

__all__ = [
    "BATCH_SIZES",
    "ModelFolderError",
    "card_of",
    "describe_program",
    "export_onnx",
    "export_program",
    "export_torch",
    "is_model_folder",
    "load_model_folder",
    "require_onnx",
    "save_generator",
]
