"""The modules of ``torch_utils.ops``, from their documented signatures and behavior; none of their code is here."""
