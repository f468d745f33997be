# The baseline under warm-up (2%), stable, decay (last 10%, linear to 0): what bu_1to12_wsd.py is compared with.
n_stages = 1
growth_steps = 10_000
continual_steps = 10_000
baseline_steps = 20_000
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
