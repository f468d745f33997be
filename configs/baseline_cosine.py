# The baseline with its own fully decayed schedule: warm-up, then cosine to a tenth. A growing run should beat
# this one.
# 20,000 steps * 524,288 tokens = 10.5B tokens; 9.0e18 FLOPs, 100.0% of full depth for the same tokens.
# With --match=RUN_OR_CONFIGS it gets as many steps as the other's compute pays for, and decays over just
# these:
#   python train.py configs/baseline_cosine.py --match=configs/gong_3_6_12.py
n_stages = 1
growth_steps = 10_000
continual_steps = 10_000
baseline_steps = 20_000
lr_schedule = 'cosine'
warmup_steps = 400
min_lr = 6e-5
