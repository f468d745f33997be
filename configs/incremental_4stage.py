# The paper's run in 4 stages, depths 3 6 9 12: GPT-2 124M, FineWeb-Edu, 20,000 steps * 524,288 tokens = 10.5B
# tokens.
# Stages of 2,500 steps (from the second on half of them with the earlier layers frozen), then 10,000
# continual steps.
# 7.3e18 FLOPs, 81.8% of full depth for the same tokens (76.6% by the paper's ledger).
n_stages = 4
growth_steps = 10_000
phase1_fraction = 0.5
continual_steps = 10_000
baseline_steps = 20_000
