# Grow a trained model instead: GPT-2 124M from the Hub from 12 to 16 layers in 2 stages, on FineWeb-Edu. The
# new layers start as zero, so that step 0 has GPT-2's own loss; each stage first trains only them (the idea
# of LLaMA Pro 2024).
# 5,000 steps * 524,288 tokens = 2.6B tokens; 2.5e18 FLOPs, 89.6% of full depth for the same tokens (89.4% by
# the paper's ledger), and what GPT-2 has cost, which nobody has published.
# A checkpoint of your own: --init_from=out/baseline --vocab_size=50304.
init_from = 'gpt2'
init_depth = 12
n_layer = 16
vocab_size = 50257  # GPT-2's own, without padding rows
n_stages = 2
growth_steps = 2_000
continual_steps = 3_000
baseline_steps = 5_000
grow_init = 'zero'
learning_rate = 1e-4
rewarm_steps = 100
