"""
Which layer comes from which when a model grows: the growth operators as pure arithmetic. No torch.

The ledger (schedule.py) asks here where the old, perhaps frozen, layers end up; the model (model.py) asks here what to
build where; the optimizer (train.py) asks here whose moments a new layer may copy. So the three can't disagree.

    layout('stack', 3, 6)       [(0, False), (1, False), (2, False), (0, True), (1, True), (2, True)]
    layout('interleave', 3, 6)  [(0, False), (0, True), (1, False), (1, True), (2, False), (2, True)]
    layout('random', 3, 5)      [(0, False), (1, False), (2, False), (None, True), (None, True)]
"""

OPERATORS = {
    'random': 'new layers on top, initialised as at the start (Li, Fung, Huang 2024)',
    'zero': 'new layers on top whose residual projections are zero: the function does not change (LLaMA Pro 2024)',
    'copy_last': 'the top layer again, on top',
    'stack': 'the whole list of layers again, on top: 1 2 3 1 2 3 (Gong et al. 2019; G_stack 2024)',
    'interleave': 'each layer doubled in place: 1 1 2 2 3 3 (interposition, arXiv 2510.08008)',
    'middle': 'the middle layers again, in the middle: 1 2 2 3 (MIDAS 2024)',
}


def layout(init: str, old: int, new: int) -> list[tuple[int | None, bool]]:
    """The layers of a model of depth `new` grown from one of depth `old` < `new`, from the bottom up.

    Each is (source, is_new): the old layer it is (is_new False) or starts as a copy of (is_new True); source is None
    for a layer that starts from an initialisation of its own. Every operator takes any two depths 1 <= old < new: where
    the new depth is no multiple of the old one, `interleave` spreads the copies evenly from the bottom and `stack` stops
    in the middle of a repetition. Growing from depth 0 is the first initialisation, whatever the operator.
    """
    assert init in OPERATORS and 0 <= old < new, f'no layout for {init} from {old} to {new} layers'
    kept = [(i, False) for i in range(old)]
    if init in ('random', 'zero') or old == 0:
        return kept + [(None, True)] * (new - old)
    if init == 'copy_last':
        return kept + [(old - 1, True)] * (new - old)
    if init == 'stack':
        return kept + [(i % old, True) for i in range(old, new)]
    if init == 'interleave':
        sources = [i * old // new for i in range(new)]
        return [(s, i > 0 and sources[i - 1] == s) for i, s in enumerate(sources)]
    # middle: as many layers as are needed from around the middle, again right behind themselves (and again, past `old`)
    n = min(new - old, old)
    first = (old - n) // 2
    copies = [(first + i % n, True) for i in range(new - old)]
    return kept[: first + n] + copies + kept[first + n :]
