# The paper's run in 12 stages, one layer each: GPT-2 124M, FineWeb-Edu, 20,000 steps * 524,288 tokens = 10.5B tokens.
n_stages = 12
growth_steps = 10_000
phase1_fraction = 0.5
continual_steps = 10_000
baseline_steps = 20_000
