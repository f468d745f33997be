# GPT-2 124M, all 12 layers from the start: what growing is compared with. FineWeb-Edu.
# 32 sequences * 1024 tokens * 2 micro-steps * 8 GPUs = 524,288 tokens a step; 20,000 steps = 10.5B tokens.
# 9.0e18 FLOPs, 100.0% of full depth for the same tokens: 6.2 hours on a machine that keeps up 400 TFLOP/s
# (python schedule.py configs/baseline.py --tflops=400).
n_stages = 1
growth_steps = 10_000
continual_steps = 10_000
baseline_steps = 20_000
