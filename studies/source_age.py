# Does growing a trained model stop losing as the model matures? 12 layers of width 48, trained with 3, 12 and
# 50 bytes a parameter, then grown to 18 with as much compute again, against training on at 12.
#
#   python dev/make_docs_corpus.py
#   python study.py studies/source_age.py --slots=cpu,cpu
#
# A budget is the age of the source and what follows it. Every arm but 'source' starts from the end of that
# arm's run of its own age and seed, so that runs of a seed are judged in pairs. 0.34M parameters: 3 bytes for
# each are 498 steps. In cpu_pretrained.py, with a source of 3 bytes a parameter, growing cost; Orthogonal
# Growth puts the crossing of interleaving and stacking at about 20 tokens a parameter.
_on = "baseline --init_from=@source --init_depth=12 --phase1_fraction=0"
arms = {
    'on at 12': _on,
    'source': 'baseline',
    'grown, zero': _on + ' --n_layer=18 --grow_init=zero',
    'grown, stack': _on + ' --n_layer=18 --grow_init=stack',
    'grown, interleave': _on + ' --n_layer=18 --grow_init=interleave',
}
baseline = 'on at 12'
overlays = ('cpu',)
settings = {
    'optimizer': 'muon', 'lr_schedule': 'wsd', 'decay_fraction': 0.2, 'n_stages': 1, 'batch_size': 16,
    'data_dir': 'data/docs_bytes', 'val_tokens': 262_144,
    'eval_interval': 500, 'eval_after_growth': (10, 30, 100, 300), 'log_interval': 50, 'keep_checkpoints': 1,
    'checkpoint_interval': 500, 'hellaswag_interval': 0,
}
scales = {'w48': '--n_embd=48 --n_head=3'}
per_parameter = (3, 12, 50)
seeds, more_seeds = (1, 2, 3), (4, 5)
_grown = ('grown, zero', 'grown, stack', 'grown, interleave')
questions = tuple((arm, 'w48', age) for arm in _grown for age in per_parameter)
tune = {'muon_learning_rate': (0.0025, 0.005), 'source': {'muon_learning_rate': (0.005, 0.01)}}
tune_at, tune_extend = (3, 12), 2
