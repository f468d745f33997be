# The baseline under Muon and warm-up (2%), stable, decay (last 10%, linear to 0): what bu_1to12_wsd_muon.py
# is compared with. 20,000 steps * 524,288 tokens = 10.5B tokens; 9.0e18 FLOPs, 100.0% of full depth for the
# same tokens.
n_stages = 1
growth_steps = 10_000
continual_steps = 10_000
baseline_steps = 20_000
optimizer = 'muon'
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
