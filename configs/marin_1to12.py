# Growth below (Marin, issue 7836, July 2026): one layer for 70% of training, then eleven identity layers
# *below* it, whose residual projections are zero, so that the function does not change; their moments start
# fresh.
# 20,000 steps * 524,288 tokens = 10.5B tokens, 14,000 steps of them with one layer: 4.8e18 FLOPs, 53.2% of
# full depth for the same tokens (35.8% by the paper's ledger).
# The finding (1 to 48 layers, one seed, 1.3 tokens a parameter): 2.06x faster with a final loss of 2.135, but
# full depth for half the updates with its own compressed decay was 1.93x faster with 2.058: growth lost. That
# control is
#   python train.py configs/baseline_wsd.py --match=configs/marin_1to12.py
n_stages = 2
stage_depths = (1, 12)
stage_fractions = (0.7, 0.0)
growth_steps = 0
continual_steps = 20_000
baseline_steps = 20_000
phase1_fraction = 0.0
grow_map = ((-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0),)  # from the bottom: fresh ones, then the old one
grow_init = 'zero'  # how the fresh ones start
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
