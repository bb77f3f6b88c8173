"""Laws of loss and of what quantization adds: their forms, fits to a study's tables, and how well they predict."""
