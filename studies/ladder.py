# Does the saving of growth grow with size, or fade with training? Three sizes of a GPT of 12 layers at two or
# three lengths of training; the result at a fourth size is predicted from them, then measured.
#
#   python dev/make_docs_corpus.py
#   python study.py studies/ladder.py --slots=cpu,cpu                  to the prediction; commit it
#   python study.py studies/ladder.py --slots=cpu,cpu                  typed again: the size held out
#   python study.py studies/ladder.py --slots=cpu,cpu --minutes=30     what half an hour has time for
#
# 16 sequences * 128 bytes = 2,048 tokens a step. The 12 layers have 0.34, 0.60, 1.34 and 2.38M parameters
# without the embeddings; 5 bytes for each are 829, 1,465, 3,277 and 5,809 steps. Other text:
# data_dir in `settings`, a folder that prepare_fineweb.py made. Rates: at 5 and 20 for the two small sizes;
# from there by width, checked one notch down at 96.
arms = {
    'full depth': 'baseline --optimizer=muon',
    '6 layers': 'baseline --n_layer=6 --optimizer=muon',
    'Gong, 3 6 12': 'gong_3_6_12 --optimizer=muon',
    'Bu, tau .8': 'bu_1to12_wsd --grow_init=random --stage_fractions=0.8,0 --optimizer=muon',
    'full depth, AdamW': 'baseline',
    'Gong, 3 6 12, AdamW': 'gong_3_6_12',
}
baseline = ('full depth', '6 layers', 'full depth, AdamW')
overlays = ('cpu',)
settings = {
    'batch_size': 16, 'data_dir': 'data/docs_bytes', 'val_tokens': 262_144,
    'lr_schedule': 'wsd', 'decay_fraction': 0.2,
    'eval_interval': 500, 'eval_after_growth': (100, 300), 'log_interval': 50, 'keep_checkpoints': 1,
    'checkpoint_interval': 500, 'hellaswag_interval': 0,
}
scales = {
    'w48': '--n_embd=48 --n_head=3', 'w64': '--n_embd=64 --n_head=4', 'w96': '--n_embd=96 --n_head=6',
    'w128': '--n_embd=128 --n_head=8',
}
per_parameter = (5, 20, 80)
held_out = ('w128',)
seeds, more_seeds = (1, 2, 3), (4, 5, 6, 7, 8)
_three = ('full depth', '6 layers', 'Gong, 3 6 12')
only = {
    80: {'arms': _three}, 'w96': {'arms': _three}, ('w96', 80): {'arms': ()},
    'w128': {'arms': _three, 'seeds': (1, 2)}, ('w128', 80): {'arms': ()},
}
questions = tuple(('Gong, 3 6 12', scale, budget) for scale in ('w48', 'w64', 'w96') for budget in (5, 20))
_adamw = {'learning_rate': (2.5e-3, 5e-3, 1e-2)}
tune = {
    'muon_learning_rate': (0.005, 0.01, 0.02), 'w96': {'muon_learning_rate': (0.005, 0.01)},
    'full depth, AdamW': _adamw, 'Gong, 3 6 12, AdamW': _adamw,
}
tune_at = {'w48': (5, 20), 'w64': (5, 20), 'w96': (5,)}
tune_extend = 2
