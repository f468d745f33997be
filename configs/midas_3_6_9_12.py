# MIDAS (2024): 3, 6, 9, 12 layers, the middle block of layers repeated in the middle, stages in proportion to
# their number (10%, 20%, 30%, 40% of training), nothing freezes. 20,000 steps * 524,288 tokens = 10.5B
# tokens; 7.3e18 FLOPs, 81.8% of full depth for the same tokens (75.0% by the paper's ledger).
# The claim: better reasoning than full depth, at about the same perplexity.
n_stages = 4
stage_depths = (3, 6, 9, 12)
stage_fractions = (0.1, 0.2, 0.3, 0.0)
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'middle'
