"""Everything that runs weights. torch, transformers, CTranslate2 and numpy live here and nowhere else."""
