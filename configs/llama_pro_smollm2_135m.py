# Block expansion of a trained Llama (LLaMA Pro, Wu et al., arXiv 2401.02415): SmolLM2 135M from 30 to 36
# layers, a new block after every 5th. Its output projections are zero, so that the function doesn't change,
# and throughout only the new blocks train (and the final norm).
# 2,000 steps * 524,288 tokens = 1.0B tokens; 9.0e17 FLOPs, 72.4% of full depth for the same
# tokens (58.3% by the paper's ledger), and what SmolLM2 has cost, which this does not count.
# LLaMA Pro went from 32 to 40 layers on 80B tokens of code and mathematics, and claims these gained while
# general ability stays: name your text and the old one, --data_dir=data/mine --val_dirs=old:data/old, both
# made by prepare_fineweb.py --tokenizer=HuggingFaceTB/SmolLM2-135M. docs/operators.md has it step by step.
arch = 'llama'
n_layer, n_head, n_kv_head, n_embd, n_ff = 36, 9, 3, 576, 1536
rope_theta = 100_000.0
vocab_size = 49152
init_from = 'HuggingFaceTB/SmolLM2-135M'
init_depth = 30
grow_map = (
    (0, 1, 2, 3, 4, -1, 5, 6, 7, 8, 9, -1, 10, 11, 12, 13, 14, -1,
     15, 16, 17, 18, 19, -1, 20, 21, 22, 23, 24, -1, 25, 26, 27, 28, 29, -1),
)
grow_init = 'zero'
n_stages = 1
growth_steps = 2_000
continual_steps = 0
baseline_steps = 2_000
phase1_fraction = 1.0
phase1_embeddings = 'frozen'
learning_rate = 2e-4
lr_schedule = 'cosine'
warmup_steps = 100
data_dir = 'data/edu_smollm2'
