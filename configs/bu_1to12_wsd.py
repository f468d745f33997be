# One layer to twelve in one jump (Bu, arXiv 2511.04981): at the fraction tau of training, in the constant
# part of a warm-up-stable-decay schedule, eleven fresh layers on top; nothing freezes, no re-warm-up, one
# learning rate for all.
# 20,000 steps * 524,288 tokens = 10.5B tokens, 16,000 steps of them with one layer: 4.2e18 FLOPs, 46.6% of
# full depth for the same tokens (26.7% by the paper's ledger).
# The claim: validation loss within 0.5% of full depth at tau = 0.8, and one layer is as good a source as any;
# with Muon first (bu_1to12_wsd_muon.py). The "80% saved" is a 7B number: here the head alone costs as much as
# 4.5 layers.
# Its runs are longer, 50 to 100 tokens a parameter, its weight decay is 0.01: --weight_decay=0.01 for both
# sides.
# Compare with baseline_wsd.py. Sweep tau: --stage_fractions=TAU,0 with TAU in .3 .5 .6 .8. Its worst operator
# is --grow_init=copy_last, about equal ones are stack and interleave.
n_stages = 2
stage_depths = (1, 12)
stage_fractions = (0.8, 0.0)  # (tau, 0): one layer for tau of all steps, then straight to twelve
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'random'
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
