# The small model at equal compute: 6 layers from the start, as many steps as baseline.py's compute pays for.
# What a grown model must beat too: if 6 layers do as well, its depth bought nothing.
# 31,466 steps * 524,288 tokens = 16.5B tokens; 9.0e18 FLOPs, those of baseline.py.
n_layer = 6
n_stages = 1
growth_steps = 10_000
baseline_steps = 31_466
match = 'configs/baseline.py'
