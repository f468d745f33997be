# The paper's run in 12 stages, one layer each: GPT-2 124M, FineWeb-Edu, 20,000 steps * 524,288 tokens = 10.5B
# tokens.
# Stages of 833 or 834 steps (from the second on half of them with the earlier layers frozen), then 10,000
# continual steps. 7.0e18 FLOPs, 77.7% of full depth for the same tokens (71.4% by the paper's ledger).
n_stages = 12
growth_steps = 10_000
phase1_fraction = 0.5
continual_steps = 10_000
baseline_steps = 20_000
