# The ablation of the paper's code: grow in 8 stages as incremental_8stage.py does, but never freeze anything.
# 20,000 steps * 524,288 tokens = 10.5B tokens; 7.6e18 FLOPs, 84.8% of full depth for the same tokens (79.2%
# by the paper's ledger).
n_stages = 8
growth_steps = 10_000
phase1_fraction = 0.0
continual_steps = 10_000
baseline_steps = 20_000
