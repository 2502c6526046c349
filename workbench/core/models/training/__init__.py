"""The scripts that trained the bundled models, one per model, deterministic given their seed."""
