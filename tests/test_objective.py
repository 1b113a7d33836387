"""The objective against values computed by hand: losses, masks, weights of tasks, contrast, and shares of a step."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from ecgmoe.features import Inputs
from ecgmoe.multitask import Load, MultiTask, Output
from ecgmoe.objective import SMOOTH_WITHIN_SD, Step, balance_of, objective, supervised_contrast
from ecgmoe.tasks import TASKS

NAN = float("nan")


class Nothing(MultiTask):
    """All that the objective needs of a model."""

    def forward(self, inputs: Inputs) -> Output:
        raise NotImplementedError


@pytest.fixture
def model():
    model = Nothing(tuple(TASKS))
    model.target_scale("age").mean_D.fill_(60.0)
    model.target_scale("age").sd_D.fill_(20.0)
    model.positive_weight_K[model.tasks.index("sex")] = 3.0
    return model


@pytest.fixture
def output():
    torch.manual_seed(0)
    logits = {name: torch.randn(4, task.n_outputs, requires_grad=True) for name, task in TASKS.items()}
    return Output(logits, contrast=(torch.randn(4, 8), torch.randn(4, 8)))


TARGETS = {
    "rr": torch.tensor([NAN, NAN, NAN, NAN]),
    "age": torch.tensor([60.0, NAN, 100.0, 40.0]),
    "sex": torch.tensor([1.0, 0.0, NAN, 1.0]),
    "potassium": torch.tensor([NAN, NAN, 0.0, NAN]),
    "rhythm": torch.tensor([2.0, NAN, NAN, 0.0]),
}


def test_each_task_loss_by_hand(model, output):
    age, sex = output.logits["age"][:, 0], output.logits["sex"][:, 0]
    by_task = objective(model, output, TARGETS).by_task
    error = torch.stack([age[0] - 0.0, age[2] - 2.0, age[3] + 1.0]).abs()
    assert (error > SMOOTH_WITHIN_SD).all()
    torch.testing.assert_close(by_task["age"], (error - SMOOTH_WITHIN_SD / 2).mean())
    weighted = 3 * F.softplus(-sex[0]) + F.softplus(sex[1]) + 3 * F.softplus(-sex[3])
    torch.testing.assert_close(by_task["sex"], weighted / 3)
    log_p = output.logits["rhythm"].log_softmax(-1)
    torch.testing.assert_close(by_task["rhythm"], -(log_p[0, 2] + log_p[3, 0]) / 2)
    assert by_task["rr"].item() == 0


def test_a_task_without_labels_teaches_nothing_and_a_missing_label_moves_no_logit(model, output):
    for weighting in ("fixed", "uncertainty"):
        model.zero_grad()
        for logits in output.logits.values():
            logits.grad = None
        objective(model, output, TARGETS, weighting=weighting).total.backward()
        for name, logits in output.logits.items():
            assert torch.equal((logits.grad != 0).any(1), TARGETS[name].isfinite()), name
    assert torch.equal(model.log_variance_K.grad != 0, torch.tensor([name != "rr" for name in model.tasks]))


def test_uncertainty_weighting_is_that_of_kendall(model, output):
    variance = torch.tensor([1.0, 2.0, 3.0, 0.5, 0.25])
    model.log_variance_K.data = variance.log()
    losses = objective(model, output, TARGETS, lam=0, weighting="uncertainty")
    age, sex, potassium, rhythm = (losses.by_task[name] for name in ("age", "sex", "potassium", "rhythm"))
    expected = age / (2 * 2) + sex / 3 + potassium / 0.5 + rhythm / 0.25 + 0.5 * variance[1:].log().sum()
    torch.testing.assert_close(losses.total, expected)


def khosla(a, b, group, scale):
    """The loss of Khosla et al. (2020), eq. 2, term by term."""
    z, group = F.normalize(torch.cat([a, b]), dim=-1), torch.cat([group, group])
    total = torch.zeros(())
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        positives = [k for k in others if group[k] == group[i]]
        bottom = sum((scale * z[i] @ z[k]).exp() for k in others)
        total = total - sum(((scale * z[i] @ z[p]).exp() / bottom).log() for p in positives) / len(positives)
    return total


@pytest.mark.parametrize("group", [[0, 1, 2, 3], [5, 5, 2, 5], [1, 1, 1, 1]])
def test_contrast_is_that_of_khosla(output, group):
    a, b = output.contrast
    found = supervised_contrast(a, b, torch.tensor(group), 4.0)
    torch.testing.assert_close(found, khosla(a, b, torch.tensor(group), 4.0))


def test_contrast_of_one_record_is_zero(output):
    a, b = (side[:1] for side in output.contrast)
    assert supervised_contrast(a, b, torch.tensor([7]), 4.0).item() == pytest.approx(0, abs=1e-6)


#: Three of four records choose the first of three backbones. By hand: 3 (3/4 × 1.65/4 + 1/4 × 1.45/4 + 0) = 1.2.
UNEVEN = Load(
    torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]]).bool(),
    torch.tensor([[0.6, 0.2, 0.2], [0.5, 0.25, 0.25], [0.45, 0.3, 0.25], [0.1, 0.7, 0.2]]),
)


def test_balance_is_one_where_even_and_m_where_one_takes_all():
    chosen, probability = UNEVEN
    assert balance_of(UNEVEN).item() == pytest.approx(1.2)
    assert balance_of(Load(torch.eye(3).bool(), torch.eye(3))).item() == pytest.approx(1)
    first = torch.tensor([[1.0, 0.0, 0.0]]).expand(4, 3)
    assert balance_of(Load(first.bool(), first)).item() == pytest.approx(3)
    assert balance_of(Load(torch.ones_like(chosen), probability)).item() == pytest.approx(1), "all run"


def test_contrast_and_balance_enter_the_total_by_their_weights(model, output):
    plain = objective(model, output, TARGETS, lam=0)
    assert plain.contrastive.item() == 0
    losses = objective(
        model, output._replace(load=UNEVEN), TARGETS, 0.3, balance=0.1, group_B=torch.tensor([0, 0, 1, 1])
    )
    expected = khosla(*output.contrast, torch.tensor([0, 0, 1, 1]), model.temperature.exp()) / 8
    torch.testing.assert_close(losses.contrastive, expected)
    torch.testing.assert_close(losses.total, plain.total + 0.3 * expected + 0.1 * 1.2)


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_shares_of_a_step_add_up_to_the_step(model, output, weighting):
    model.log_variance_K.data = torch.linspace(-1, 1, 5)
    group = torch.tensor([0, 1, 1, 0])
    probability = UNEVEN.probability_BM.clone().requires_grad_()
    output = output._replace(load=UNEVEN._replace(probability_BM=probability))
    options = {"weighting": weighting, "balance": 0.1}
    whole = objective(model, output, TARGETS, 0.5, group_B=group, **options)
    chosen, every = UNEVEN.chosen_BM, torch.cat(output.contrast)
    counts = {name: int(target.isfinite().sum()) for name, target in TARGETS.items()}
    shares = []
    for part in (slice(0, 1), slice(1, 4)):
        own = torch.arange(4)[part]
        order = torch.cat([own, own + 4, *(i for k in range(4) if k not in own for i in torch.tensor([[k], [k + 4]]))])

        def gather(rows, order=order):
            if rows.shape[1:] == (6,):  # a router's load
                return torch.cat([rows, torch.cat([chosen.float(), probability], 1)[order[2 * len(rows) :: 2]]]), 0
            return (F.normalize(every, dim=-1)[order] if rows.is_floating_point() else group[order % 4]), 0

        taken = output._replace(
            logits={name: logits[part] for name, logits in output.logits.items()},
            contrast=tuple(side[part] for side in output.contrast),
            load=Load(chosen[part], probability[part]),
        )
        targets = {name: target[part] for name, target in TARGETS.items()}
        shares.append(
            objective(model, taken, targets, 0.5, group_B=group[part], step=Step(counts, 4, gather), **options)
        )
    torch.testing.assert_close(sum(share.total for share in shares), whole.total)
    torch.testing.assert_close(sum(share.contrastive for share in shares), whole.contrastive)
    alone = [balance_of(Load(chosen[part], probability[part])) for part in (slice(0, 1), slice(1, 4))]
    assert sum(alone).item() > 1.5 * balance_of(output.load).item(), "of a part alone it is another one"
    (of_whole,) = torch.autograd.grad(whole.total, probability)
    (of_shares,) = torch.autograd.grad(sum(share.total for share in shares), probability)
    torch.testing.assert_close(of_shares, of_whole)
    for name, loss in whole.by_task.items():
        torch.testing.assert_close(sum(share.by_task[name] for share in shares), loss)


def test_ages_above_the_limit_are_no_targets():
    target = TASKS["age"].targets(pd.DataFrame({"age": [89.0, 90.0, 20.0]}))
    assert target[0] == 89 and torch.tensor(target).isnan().tolist() == [False, True, False]


def test_half_precision_logits_are_compared_in_single(model, output):
    half = output._replace(
        logits={name: logits.bfloat16() for name, logits in output.logits.items()},
        contrast=tuple(side.bfloat16() for side in output.contrast),
    )
    losses = objective(model, half, TARGETS)
    assert losses.total.dtype == torch.float32
    torch.testing.assert_close(losses.total, objective(model, output, TARGETS).total, rtol=0.02, atol=0.02)
