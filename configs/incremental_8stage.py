# The paper's run in 8 stages, depths 2 3 5 6 8 9 11 12: GPT-2 124M, FineWeb-Edu.
# 32 sequences * 1024 tokens * 2 micro-steps * 8 GPUs = 524,288 tokens a step; 20,000 steps = 10.5B tokens.
# Stages of 1,250 steps (from the second on half of them with the earlier layers frozen), then 10,000
# continual steps.
# 7.1e18 FLOPs, 79.3% of full depth for the same tokens (73.4% by the paper's ledger).
# --continual_steps=equal_compute goes on to the baseline's FLOPs instead: 14,150 continual steps.
n_stages = 8
growth_steps = 10_000
phase1_fraction = 0.5
continual_steps = 10_000
baseline_steps = 20_000
