# The ablation of the paper's code: grow in 8 stages as incremental_8stage does, but never freeze anything.
n_stages = 8
growth_steps = 10_000
phase1_fraction = 0.0
continual_steps = 10_000
baseline_steps = 20_000
