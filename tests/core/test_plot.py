"""What all figures share. Run: python -m pytest tests/core/test_plot.py"""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure

import schedule
from config import TrainConfig
from core import plot
from core.common import UserError

@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved while a test runs."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures

def test_a_plan_is_a_staircase_with_frozen_layers_hatched_and_its_cost_below(tmp_path, drawn):
    config = TrainConfig(n_stages=3, n_layer=6, growth_steps=600, continual_steps=200)
    plan = schedule.plan(config)
    phases = plan.phases
    flops = np.array(plan.step_costs['flops'], float)
    plot.draw_plan(str(tmp_path / 'plan.png'), plan, '_name$')
    above, below = drawn[0].axes
    assert list(above.patches[-1].get_data().values) == [phase.depth for phase in phases]
    assert list(above.patches[-1].get_data().edges) == [0, 200, 300, 400, 500, 600, 800]
    hatched = [area.get_paths()[0].vertices[:, 1].max() for area in above.collections]
    assert hatched == [2, 4]
    cost = below.patches[-1].get_data()
    np.testing.assert_allclose(cost.values, flops / flops[-1])
    assert above.get_title(loc='left') == '_name$'
    assert above.get_title(loc='right') == 'hatched: frozen layers' and above.patches[0].get_fill()
    total = flops @ [200, 100, 100, 100, 100, 200]
    share = total / flops.max() / 800
    assert f'{total:.3g} FLOPs in all, {share:.1%} of' in below.get_title('right')
    assert below.get_xlim() == (0, 800) == above.get_xlim() and above.get_ylim() == (0, pytest.approx(6.72))
    unfrozen = schedule.plan(dataclasses.replace(config, phase1_fraction=0.0))
    plot.draw_plan(str(tmp_path / 'plan.png'), unfrozen)
    assert not drawn[1].axes[0].get_title(loc='right')
    with pytest.raises(UserError, match='must end in'):
        plot.draw_plan(str(tmp_path / 'plan.jpg'), plan)
