# Progressive stacking (Gong et al. 2019, as in No Train No Gain 2023): 3, 6, 12 layers, the whole stack doubled at 12.5% and
# at 30% of training. 20,000 steps * 524,288 tokens; nothing freezes, moments start afresh.
n_stages = 3
stage_depths = (3, 6, 12)
stage_fractions = (0.125, 0.175, 0.0)
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'stack'
grow_optimizer = 'reset'
