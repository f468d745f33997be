# Depth up-scaling of a trained Llama (SOLAR 10.7B, Kim et al., arXiv 2312.15166): two copies of the 30 layers
# of SmolLM2 135M on each other, without the last 7 of the lower and the first 7 of the upper one, 46 layers,
# all trained on.
# 5,000 steps * 524,288 tokens = 2.6B tokens; 3.9e18 FLOPs, 100.0% of full depth for the same
# tokens, and what SmolLM2 has cost, which this does not count.
# SOLAR went from 32 to 48 layers, without the inner 8, and claims that performance comes back fast and then
# exceeds larger models'. Data:
#   python prepare_fineweb.py --tokenizer=HuggingFaceTB/SmolLM2-135M --out=data/edu_smollm2
arch = 'llama'
n_layer, n_head, n_kv_head, n_embd, n_ff = 46, 9, 3, 576, 1536
rope_theta = 100_000.0
vocab_size = 49152
init_from = 'HuggingFaceTB/SmolLM2-135M'
init_depth = 30
grow_map = ((*range(23), *range(7, 30)),)
n_stages = 1
growth_steps = 5_000
continual_steps = 0
baseline_steps = 5_000
phase1_fraction = 0.0
learning_rate = 1e-4
rewarm_steps = 100
data_dir = 'data/edu_smollm2'
