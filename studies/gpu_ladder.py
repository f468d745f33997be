# Does the saving of growth grow with size, or fade with training? ladder.py at sizes for one rented GPU: 12
# layers of width 256, 384 and 512 on FineWeb-Edu, and what they predict for 768, GPT-2 small, measured.
#
#   python prepare_fineweb.py --max_tokens=3_000_000_000
#   python study.py studies/gpu_ladder.py --dry_run --tflops=400
#   python study.py studies/gpu_ladder.py --slots=0      to the prediction; commit it, then the same again
#
# 128 sequences * 1024 tokens = 131,072 tokens a step. The 12 layers have 9.4, 21, 38 and 85M parameters
# without the embeddings; 20 tokens for each are up to 1.7B, and 2.7B at 6 layers. 2.0e19 FLOPs with shared
# prefixes: 14 hours at 400 TFLOP/s, which an H200 keeps up at width 768, and less at the others (bench.py).
arms = {
    'full depth': 'baseline --optimizer=muon',
    '6 layers': 'baseline --n_layer=6 --optimizer=muon',
    'Gong, 3 6 12': 'gong_3_6_12 --optimizer=muon',
}
baseline = ('full depth', '6 layers')
settings = {
    'total_batch_size': 131_072, 'lr_schedule': 'wsd', 'decay_fraction': 0.2, 'warmup_steps': 50,
    'weight_decay': 0.1,
    'eval_interval': 250, 'eval_after_growth': (100, 300), 'keep_checkpoints': 1, 'checkpoint_interval': 500,
    'hellaswag_interval': 1_000_000,  # at the end alone
}
scales = {
    'w256': '--n_embd=256 --n_head=4', 'w384': '--n_embd=384 --n_head=6', 'w512': '--n_embd=512 --n_head=8',
    'w768': '--n_embd=768 --n_head=12',
}
per_parameter = (5, 20)
held_out = ('w768',)
seeds, more_seeds = (1, 2, 3), (4, 5)
questions = tuple(('Gong, 3 6 12', scale, budget) for scale in ('w256', 'w384', 'w512') for budget in (5, 20))
tune = {'muon_learning_rate': (0.01, 0.02)}
tune_at = {'w256': (5, 20), 'w384': (5,)}
tune_extend = 2
