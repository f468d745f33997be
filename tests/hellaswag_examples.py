"""HellaSwag-shaped examples, and a model to score them with, for the tests and for dev/.

The examples are own sentences, in the data set's two kinds, marks and lengths. A third is like ActivityNet's
(ctx_b begins the endings' sentence, in lower case), two thirds like WikiHow's ([header], [title], [step],
[substeps], double spaces). Deterministic: numpy promises never to change RandomState's stream.
"""

from pathlib import Path

import numpy as np
import torch

from model import GPT, GPTConfig

# the harness's own values, by dev/golden_hellaswag.py
GOLDEN = Path(__file__).parent / 'hellaswag_golden.jsonl'

WHO = ['A man', 'A woman in a red coat', 'The older of the two boys', 'A group of swimmers',
       'The lady at the counter', 'Someone', 'A chef', 'The camera man', 'An athlete', 'A girl with a violin']
DOES = ['walks across the yard', 'lifts the barbell over his head', 'talks to the camera',
        'pours batter into a hot pan', 'throws a ball against the wall', "doesn't notice the dog",
        'kneels down beside the tent', 'jumps off the pier', 'paints a 3-foot fence white',
        'cuts 12 onions in a row',
        'rides away on an unlit bicycle']
AND = ['', '', ' while the crowd is cheering', ', smiling all the time', ' and then does it once more',
       ' — again and again', ' in front of a grey garage', ', which takes a while', ' (it is a cold day)',
       ', followed by three children and a goat']
HOW = ['How to sharpen a kitchen knife', 'How to get over a cold', 'How to train for a half-marathon',
       'How to make soap', "How to write a letter you won't regret", 'How to re-pot an orchid',
       'How to save $500 by Christmas']
LABELS = ['Food and Entertaining', 'Health', 'Home and Garden', 'Sports and Fitness', 'Youth',
          'Finance and Business']
FIRST = ['', '', 'First of all, ', 'Next, ', 'If nothing else helps: ', 'After a day or two, ',
         'Before you begin, ',
         'Once it is dry, ', 'At home, ', '(Optional) ', 'Then ', 'Now and then, ']
ADVICE = ['take your time with this', 'ask a doctor if you are in doubt',
          'wash the leaves under lukewarm water',
          'start small', 'choose a stone of about 1000 grit',
          "don't skip the warm-up, even if you feel fresh",
          'let it rest overnight', 'put on gloves before you open the bottle', 'measure everything twice',
          'keep the receipts in one place', 'set an alarm for 6:30 in the morning',
          'write down what you have spent']
WHY = ['so that the surface stays even', 'because the smell will not go away otherwise',
       'since your body needs it',
       'if you can', 'as you would with any other tool', 'and your neighbours will thank you',
       'until the mixture has thickened', 'to be safe',
       'for e.g. ten minutes, or half an hour at the very most',
       'unless it says "cold only" on the label']
BETWEEN = ['', '  ', ' [substeps] ', ' ', ' ', ' ']

def make_examples(n: int, seed: int) -> list[dict]:
    """n examples with every field of the public data set that a scorer may read, labels as strings."""
    rng = np.random.RandomState(seed)

    def pick(options):
        return options[rng.randint(len(options))]

    def title():
        return f'[title] {pick(ADVICE).capitalize()}.'

    def advice(sentences):
        text = [(pick(FIRST) + pick(ADVICE)) for _ in range(sentences)]
        return pick(['', '', '[step] ']) + ' '.join(f'{t[0].upper()}{t[1:]} {pick(WHY)}.{pick(BETWEEN)}'
                                                    for t in text)

    examples = []
    for ind in range(n):
        if rng.randint(3) == 0:
            ctx_a = ' '.join(f'{pick(WHO)} {pick(DOES)}{pick(AND)}.' for _ in range(rng.randint(1, 4)))
            ctx_b = pick([*(who[0].lower() + who[1:] for who in WHO), 'he', 'the two of them',
                          'the Man in the Red Hat'])
            endings = [f'{pick(DOES)}{pick(AND)}{pick([".", ".", "", " ."])}' for _ in range(4)]
        else:
            ctx_a = f'[header] {pick(HOW)} {title()} {advice(rng.randint(1, 6))}'.rstrip(' ')
            ctx_b = pick(['', '', '', 'if you can, you'])
            endings = [pick(['{}', '{}', '{} ', '{1} [step] {0}',
                             '{0} {1}']).format(advice(rng.randint(1, 4)), title())
                       for _ in range(4)]
        examples.append({'ind': ind, 'activity_label': pick(LABELS), 'ctx_a': ctx_a, 'ctx_b': ctx_b,
                         'ctx': ctx_a + (' ' + ctx_b if ctx_b else ''), 'endings': endings,
                         'label': str(rng.randint(4))})
    return examples

def known_gpt(config=None, depth=None) -> GPT:
    """A small GPT whose weights are numpy's, so the same everywhere, and wide enough to tell endings
    apart."""
    model = GPT(config or GPTConfig(block_size=128, vocab_size=50257, n_layer=2, n_head=2, n_embd=16), depth)
    rng = np.random.RandomState(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            is_scale = 'ln_' in name and name.endswith('weight')
            p.copy_(torch.from_numpy(rng.standard_normal(p.shape) * 0.4 + is_scale))
    return model.eval()
