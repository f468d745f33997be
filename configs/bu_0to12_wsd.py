# No layer to twelve in one jump (Bu, arXiv 2511.04981): embeddings, final norm and head alone, a bigram
# model, for the fraction tau of training, then twelve fresh layers between them; warm-up, stable, decay;
# nothing freezes.
# 20,000 steps * 524,288 tokens = 10.5B tokens, 16,000 steps of them without a layer: 3.7e18 FLOPs, 41.7% of
# full depth for the same tokens (20.0% by the paper's ledger, which counts no head and so nothing for those
# 16,000 steps).
# The claim: validation loss within 0.5% of full depth at tau = 0.8, and no or one layer is the best source,
# two layers and more are worse. Otherwise as bu_1to12_wsd.py; compare with baseline_wsd.py.
n_stages = 2
stage_depths = (0, 12)
stage_fractions = (0.8, 0.0)  # (tau, 0): no layer for tau of all steps, then straight to twelve
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'random'
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
