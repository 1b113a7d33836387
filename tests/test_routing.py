"""The router: how many run, what weighs what, how it learns, and that what is not chosen is not looked at."""

from dataclasses import replace

import pytest
import torch

from ecgmoe import routing
from ecgmoe.beats import Beats
from ecgmoe.features import Inputs
from ecgmoe.fusion import ECGMoE, ECGMoEConfig
from ecgmoe.objective import balance_of, objective

B, N, A, M = 12, 4, 43, 4
WIDTHS = {"timesnet": 20, "dlinear": 48, "moment": 8, "tempo": 16}


def make_inputs(fs: float = 100.0, n_records: int = B) -> Inputs:
    g = torch.Generator().manual_seed(0)
    beats = Beats(
        torch.randn(n_records, N, 12, 64, generator=g),
        0.7 + 0.2 * torch.rand(n_records, N, 2, generator=g),
        torch.ones(n_records, N, dtype=torch.bool),
    )
    signal = torch.randn(n_records, 12, round(10 * fs), generator=g)
    features = {name: torch.randn(n_records, width, generator=g) for name, width in WIDTHS.items()}
    return Inputs(features, beats, torch.randn(n_records, A, generator=g), signal, fs)


def build(**changes) -> ECGMoE:
    torch.manual_seed(0)
    model = ECGMoE(replace(ECGMoEConfig(d_features=WIDTHS), **changes)).eval()
    for layer in (*model.heads.values(), *model.shortcut.values()):
        layer.reset_parameters()  # they start at zero
    return model


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_k_backbones_run_a_record_and_their_weights_sum_to_one(k):
    choice = build(top_k=k).choose(make_inputs())
    assert (choice.chosen_BM.sum(1) == k).all()
    expected_BK = (
        torch.ones(B, 5) if k > 1 else choice.probability_BKM.masked_fill(~choice.chosen_BM[:, None], 0).sum(-1)
    )
    torch.testing.assert_close(choice.weight_BKM.sum(-1), expected_BK)
    assert ((choice.weight_BKM > 0) == choice.chosen_BM[:, None]).all(), "what is not chosen weighs exactly 0"
    torch.testing.assert_close(choice.probability_BKM.sum(-1), torch.ones(B, 5))


def test_the_choice_is_the_top_of_the_mean_over_the_requested_tasks():
    model, inputs = build(top_k=2), make_inputs()
    model.router.score.weight.data *= 30  # tasks differ
    for tasks in [("rr",), ("sex", "rhythm"), None]:
        choice = model.choose(inputs, tasks)
        assert choice.probability_BKM.shape == (B, len(tasks or model.tasks), M)
        mean_BM = choice.probability_BKM.mean(1)
        least_B = mean_BM.masked_fill(~choice.chosen_BM, 2).amin(1)
        assert (least_B >= mean_BM.masked_fill(choice.chosen_BM, -1).amax(1)).all()
    alone = [model.choose(inputs, (name,)).chosen_BM for name in model.tasks]
    assert any(not torch.equal(alone[0], other) for other in alone[1:]), "tasks ask for different backbones"


def test_the_choice_depends_on_the_raw_signal_and_on_no_feature():
    model, inputs = build(top_k=1), make_inputs()
    choice = model.choose(inputs)
    blind = model.choose(inputs._replace(features={}))
    torch.testing.assert_close(choice.probability_BKM, blind.probability_BKM, rtol=0, atol=0)
    other = model.choose(inputs._replace(signal_BCT=inputs.signal_BCT.flip(1)))
    assert not torch.allclose(choice.probability_BKM, other.probability_BKM, atol=1e-4)
    shifted = model.choose(inputs._replace(signal_BCT=inputs.signal_BCT + 0.5))
    torch.testing.assert_close(choice.probability_BKM, shifted.probability_BKM, rtol=1e-3, atol=1e-4)
    assert model.sees_signal and not build().sees_signal


@pytest.mark.parametrize("fs", [100.0, 250.0, 500.0])
def test_a_record_alone_or_in_a_batch_is_routed_alike_at_any_rate(fs):
    model, inputs = build(top_k=2), make_inputs(fs, 4)
    together = model.choose(inputs)
    for row in range(4):
        alone = model.choose(inputs.take(torch.tensor([row])))
        torch.testing.assert_close(alone.probability_BKM[0], together.probability_BKM[row], rtol=1e-5, atol=1e-6)
        assert torch.equal(alone.chosen_BM[0], together.chosen_BM[row])


def test_a_broken_signal_is_routed_too():
    inputs = make_inputs()
    inputs.signal_BCT[0, 3] = float("nan")
    inputs.signal_BCT[1, 3] = 1e9
    choice = build(top_k=2).choose(inputs)
    assert torch.isfinite(choice.probability_BKM).all()


def test_what_is_not_chosen_has_no_influence_and_gets_no_gradient():
    model, inputs = build(top_k=2), make_inputs()
    choice = model.choose(inputs)
    changed = {
        name: torch.where(choice.chosen_BM[:, m : m + 1], feature, torch.full_like(feature, 7.0)).requires_grad_()
        for m, (name, feature) in enumerate(inputs.features.items())
    }
    expected, found = model(inputs), model(inputs._replace(features=changed))
    for name, logits in expected.logits.items():
        assert torch.equal(logits, found.logits[name])
    sum(logits.square().sum() for logits in found.logits.values()).backward()
    for m, feature in enumerate(changed.values()):
        reached_B = (feature.grad != 0).any(1)
        assert torch.equal(reached_B, choice.chosen_BM[:, m])
    assert torch.equal(found.backbone_gate_BKM, choice.weight_BKM)


def test_noise_is_drawn_while_training_only_and_from_torchs_generator():
    model, inputs = build(top_k=2), make_inputs()
    assert torch.equal(model.choose(inputs).probability_BKM, model.choose(inputs).probability_BKM)
    model.train()
    torch.manual_seed(5)
    first, second = model.choose(inputs), model.choose(inputs)
    torch.manual_seed(5)
    assert torch.equal(first.probability_BKM, model.choose(inputs).probability_BKM)
    assert not torch.equal(first.probability_BKM, second.probability_BKM)


def test_balance_is_one_where_even_and_grows_where_one_takes_all():
    even = torch.eye(M)[torch.arange(B) % M][:, None]
    assert balance_of(routing.choose(8 * even, 1).load).item() == pytest.approx(1)
    greedy = torch.zeros(B, 1, M).index_fill(2, torch.tensor([0]), 20.0)
    assert balance_of(routing.choose(greedy, 1).load).item() == pytest.approx(M, rel=1e-4)
    assert balance_of(routing.choose(greedy, M).load).item() == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 2])
def test_a_router_learns_which_backbone_tells(k):
    """The answer is in what one backbone says of loud records, and in what another says of quiet ones."""
    torch.manual_seed(0)
    n = 64
    loud = torch.arange(n) % 2 == 0
    truth = (torch.arange(n) // 2 % 2).float()
    signal = torch.randn(n, 2, 64) * torch.where(loud, 1.0, 0.05)[:, None, None]
    inputs = Inputs({}, Beats(*(torch.zeros(n, 0),) * 3), torch.zeros(n, 1), signal, 100.0)
    said_BM = torch.zeros(n, M)
    said_BM[loud, 0], said_BM[~loud, 3] = 4 * truth[loud] - 2, 4 * truth[~loud] - 2
    router = routing.Router(2, 1, 1, M, k, width=8)
    optimizer = torch.optim.Adam(router.parameters(), lr=1e-2)
    for _ in range(200):
        choice = router(inputs, torch.zeros(n, 1), torch.zeros(1, 1))
        answer_B = (choice.weight_BKM[:, 0] * said_BM).sum(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(answer_B, truth)
        loss = loss + 0.01 * balance_of(choice.load)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chosen_BM = router.eval()(inputs, torch.zeros(n, 1), torch.zeros(1, 1)).chosen_BM
    assert chosen_BM[loud, 0].float().mean() > 0.9 and chosen_BM[~loud, 3].float().mean() > 0.9


@pytest.mark.parametrize("k", [1, 2])
def test_the_gradient_of_the_answers_reaches_the_router(k):
    model, inputs = build(top_k=k), make_inputs()
    sum(logits.square().sum() for logits in model(inputs).logits.values()).backward()
    assert model.router.read[0].weight.grad.abs().max() > 0


def test_the_objective_holds_the_balance():
    model, inputs = build(top_k=1), make_inputs()
    targets = {name: torch.zeros(B) for name in model.tasks}
    output = model(inputs)
    without, with_balance = (objective(model, output, targets, balance=weight).total for weight in (0.0, 0.1))
    assert (with_balance - without).item() == pytest.approx(0.1 * balance_of(output.load).item(), rel=1e-3)
    assert build()(inputs).load is None


def test_only_requested_tasks_are_computed():
    for model in (build(), build(top_k=4)):
        inputs = make_inputs()
        called = []
        for name, head in model.heads.items():
            head.register_forward_hook(lambda *_, name=name: called.append(name))
        output = model(inputs, ("rhythm", "age"))
        assert called == list(output.logits) == ["rhythm", "age"]
        assert output.periodic.gate_BKE.shape[1] == output.backbone_gate_BKM.shape[1] == 2
        whole = model(inputs)
        torch.testing.assert_close(output.logits["age"], whole.logits["age"], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="does not answer height"):
        model(inputs, ("height",))


@pytest.mark.parametrize("changes", [{"top_k": 5}, {"top_k": -1}, {"top_k": 1, "d_features": {}}])
def test_impossible_numbers_are_refused(changes):
    with pytest.raises(ValueError, match="top_k"):
        build(**changes)


def test_a_router_by_itself_refuses_too():
    with pytest.raises(ValueError, match="from 1 to the number of backbones, 3"):
        routing.Router(12, A, 16, 3, 0)
