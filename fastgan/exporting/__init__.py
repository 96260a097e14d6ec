"""Exports a generator: a folder with weights and a model card, and programs that run without fastgan."""

from fastgan.exporting.card import card_of
from fastgan.exporting.folder import (
    ModelFolderError,
    copied_tensors,
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
)
