"""The modules of ``op``, from their signatures and behavior; none of their code is here."""
