# Depth up-scaling of a trained model (SOLAR 10.7B, Kim et al., arXiv 2312.15166): two copies of its 12 layers
# on each other, without the last 3 of the lower and the first 3 of the upper one, 18 layers, all trained on.
# 5,000 steps * 524,288 tokens = 2.6B tokens; 3.1e18 FLOPs, 100.0% of full depth for the same tokens, and what
# baseline.py has cost before (9.0e18 FLOPs), which compare.py says. Train baseline.py first, or
# --init_from=gpt2 --vocab_size=50257. SOLAR went from 32 to 48 layers, and claims that performance comes back
# fast and then exceeds larger models'. The same jump without a change of the function: --grow_map=()
# --grow_init=zero.
init_from = 'out/baseline'
init_depth = 12
n_layer = 18
n_stages = 1
growth_steps = 5_000
continual_steps = 0
baseline_steps = 5_000
phase1_fraction = 0.0
grow_map = ((0, 1, 2, 3, 4, 5, 6, 7, 8, 3, 4, 5, 6, 7, 8, 9, 10, 11),)
learning_rate = 1e-4
rewarm_steps = 100
