"""How a model is run: hooks by validated names, one lock per model, inference mode."""
