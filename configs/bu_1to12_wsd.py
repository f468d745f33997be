# One layer to twelve in one jump (Bu, arXiv 2511.04981): at the fraction tau of training, in the constant part of a
# warm-up-stable-decay schedule, the new layers copied from the one block; nothing freezes, no re-warm-up.
# The claim: validation loss within 0.5% of full depth at tau = 0.8. At 124M that costs .466 of the baseline's FLOPs for the
# same tokens (.599 at tau = 0.6); at equal compute the tokens grow instead. The paper's runs are longer: sweep tau,
# --stage_fractions=TAU,0 with TAU in .3 .5 .6 .8.
n_stages = 2
stage_depths = (1, 12)
stage_fractions = (0.6, 0.0)  # (tau, 0): one layer for tau of all steps, then straight to twelve
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'copy_last'
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
