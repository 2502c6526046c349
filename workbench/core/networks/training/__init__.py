"""The scripts that trained the bundled networks, deterministic given their seed."""
