# Interposition (arXiv 2510.08008): 6 layers for 30% of training, then each doubled in place, moments copied
# with it; nothing freezes. 20,000 steps * 524,288 tokens = 10.5B tokens; 8.0e18 FLOPs, 89.1% of full depth
# for the same tokens (85.0% by the paper's ledger). The claim: better than stacking where the source has
# converged.
n_stages = 2
stage_depths = (6, 12)
stage_fractions = (0.3, 0.0)
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'interleave'
grow_optimizer = 'copy'
