# The paper's run: GPT-2 124M grown in 8 stages, depths 2 3 5 6 8 9 11 12.
n_stages = 8
growth_steps = 10_000
phase1_fraction = 0.5
continual_steps = 10_000
baseline_steps = 20_000
