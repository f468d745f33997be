# Progressive stacking as No Train No Gain runs it (Kaddour et al., arXiv 2307.06440): gong_3_6_12.py with the
# learning rate times (depth / 12)^(-1/4): 1.41 of it with 3 layers, 1.19 with 6, 1 with 12.
# 20,000 steps * 524,288 tokens = 10.5B tokens; 7.8e18 FLOPs, 86.8% of full depth for the same tokens (81.9%
# by the paper's ledger). The finding: at equal compute, with a decayed baseline, stacking's gain all but
# vanishes.
n_stages = 3
stage_depths = (3, 6, 12)
stage_fractions = (0.125, 0.175, 0.0)
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'stack'
grow_optimizer = 'reset'
lr_depth_power = 0.25
