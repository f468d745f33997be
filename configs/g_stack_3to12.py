# G_stack (Du et al., arXiv 2405.15319): three layers, early stacked four times at once to twelve, moments
# afresh.
# 20,000 steps * 524,288 tokens = 10.5B tokens, 2,000 steps of them with three layers: 8.5e18 FLOPs, 94.5% of
# full depth for the same tokens (92.5% by the paper's ledger).
# The claim: a 7B model reaches with 194B tokens the loss that it has without growing after 300B; a factor of
# four is best, and the small model gets d tokens, log10 d = .88 log10 N + 163.27 / log10 C - 5.74. For 7B
# that is 20B tokens; for 124M parameters and 9.0e18 FLOPs it says 9.9B, all of this run, far outside of what
# it was fitted to. Here: 10%.
n_stages = 2
stage_depths = (3, 12)
stage_fractions = (0.1, 0.0)
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_map = ((0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2),)
grow_optimizer = 'reset'
