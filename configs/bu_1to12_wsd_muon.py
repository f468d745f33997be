# bu_1to12_wsd.py under Muon, the optimizer that its claims (Bu, arXiv 2511.04981) are made for first:
# validation loss within 0.5% of full depth at tau = 0.8. Muon takes the matrices of the layers, AdamW
# embeddings, norms and biases.
# 20,000 steps * 524,288 tokens = 10.5B tokens, 16,000 steps of them with one layer: 4.2e18 FLOPs, 46.6% of
# full depth for the same tokens (26.7% by the paper's ledger). Compare with baseline_wsd_muon.py.
n_stages = 2
stage_depths = (1, 12)
stage_fractions = (0.8, 0.0)
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_init = 'random'
optimizer = 'muon'
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
