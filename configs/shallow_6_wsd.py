# The small model at equal compute with a decay of its own: 6 layers from the start, as many steps as
# baseline_wsd.py's compute pays for; warm-up (2% of baseline_wsd.py's steps), stable, decay (last 10%, linear
# to 0).
# 31,466 steps * 524,288 tokens = 16.5B tokens; 9.0e18 FLOPs, those of baseline_wsd.py.
n_layer = 6
n_stages = 1
growth_steps = 10_000
baseline_steps = 31_466
match = 'configs/baseline_wsd.py'
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
