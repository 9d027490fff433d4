# made by scripts/setup
