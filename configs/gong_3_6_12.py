# Progressive stacking (Gong et al. 2019, stages as in No Train No Gain, arXiv 2307.06440): 3, 6, 12 layers,
# the whole stack doubled at 12.5% and at 30% of training; nothing freezes, moments start afresh.
# 20,000 steps * 524,288 tokens = 10.5B tokens; 7.8e18 FLOPs, 86.8% of full depth for the same tokens (81.9%
# by the paper's ledger). The claim: BERT of the same quality in three quarters of the time.
n_stages = 3
stage_depths = (3, 6, 12)
stage_fractions = (0.125, 0.175, 0.0)
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'stack'
grow_optimizer = 'reset'
