"""What all figures share. Run: python -m pytest tests/core/test_plot.py"""

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
    with pytest.raises(UserError, match='must end in'):
        plot.draw_plan(str(tmp_path / 'plan.jpg'), plan)
