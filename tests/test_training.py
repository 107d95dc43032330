"""Training: it goes on to the same bits after any stop, keeps the best weights, and counts what it costs."""

import multiprocessing
import os
import signal

import pytest
from patience import PATIENCE

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.lab.training import fit, save_weights  # noqa: E402
from shrinkstats.adapters.attacks import PGD  # noqa: E402
from shrinkstats.adapters.torch import convert  # noqa: E402
from shrinkstats.estimators import Stein  # noqa: E402

X = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0.5).long() + (X[:, 0, 0, 0] > 0.5).long()
STEPS, EPOCHS = 8, 3


def network():
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(128, 3)
    return convert(nn.Sequential(*parts), Stein())


def batches(epoch):
    order = torch.randperm(64, generator=torch.Generator().manual_seed(epoch))
    return [(X[i], Y[i]) for i in order.split(64 // STEPS)]


def losses(logits, labels):
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def accuracy(net):
    with torch.no_grad():
        return {"accuracy": float((net(X).argmax(1) == Y).float().mean())}


def train(net, **options):
    return fit(net, batches, losses, **{"epochs": EPOCHS, **options})


def same(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_seconds(history):
    return [{**vars(epoch), "seconds": None} for epoch in history]


class Stop(Exception):
    pass


def stop_after(steps):
    """Progress that breaks off hard, between two steps; what was saved before is all there is."""
    seen = []

    def progress(step):
        seen.append(step)
        if len(seen) == steps:
            raise Stop

    return progress


# --- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attack": PGD(0.1, steps=2), "validate": accuracy},
        {"autocast": torch.bfloat16},
        {"validate": accuracy, "patience": 1},
    ],
    ids=["plain", "attack", "autocast", "patience"],
)
@pytest.mark.parametrize("seconds", [0, 1e9], ids=["every step", "every epoch"])
def test_a_stopped_training_comes_to_the_same_weights(tmp_path, options, seconds):
    whole = network()
    expected = train(whole, **options)
    steps = STEPS * len(expected)
    for stops in ([steps // 2 + 1], [3, 5, 2]):
        path = tmp_path / f"{stops}.pt"
        for stop in stops:
            with pytest.raises(Stop):
                train(network(), checkpoint=path, checkpoint_seconds=seconds, progress=stop_after(stop), **options)
        resumed = network()
        history = train(resumed, checkpoint=path, **options)
        assert same(whole, resumed)
        assert without_seconds(history) == without_seconds(expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_the_step_and_keeps_it(tmp_path, number):
    whole, path = network(), tmp_path / "checkpoint.pt"
    train(whole)
    calls = []

    def interrupted(logits, labels):  # in the middle of a step
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), number)
        return losses(logits, labels)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), batches, interrupted, epochs=EPOCHS, checkpoint=path, checkpoint_seconds=1e9)
    assert signal.getsignal(number) is before
    assert len(calls) == 5
    assert torch.load(path, weights_only=True)["step"] == 5
    resumed, further = network(), []
    train(resumed, checkpoint=path, progress=further.append)
    assert same(whole, resumed)
    assert len(further) == STEPS * EPOCHS - 5


def test_a_second_interruption_does_not_wait():
    def impatient(logits, labels):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still here")

    with pytest.raises(KeyboardInterrupt):
        fit(network(), batches, impatient, epochs=1)


def test_a_finished_training_is_not_repeated(tmp_path):
    path, net = tmp_path / "checkpoint.pt", network()
    history = train(net, checkpoint=path, validate=accuracy)
    again, steps = network(), []
    assert train(again, checkpoint=path, validate=accuracy, progress=steps.append) == history
    assert same(net, again)
    assert steps == []


def test_random_numbers_outside_are_untouched_and_do_not_matter():
    one, two = network(), network()
    torch.manual_seed(1)
    train(one)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    train(two)
    assert same(one, two)


def test_another_seed_gives_other_weights():
    one, two = network(), network()
    train(one)
    train(two, seed=1)
    assert not same(one, two)


@pytest.mark.parametrize("other", [{"epochs": 4}, {"seed": 1}, {"rate": 0.2}, {"attack": PGD(0.1, steps=1)}])
def test_a_checkpoint_of_another_training_is_refused(tmp_path, other):
    path = tmp_path / "checkpoint.pt"
    train(network(), checkpoint=path)
    (name,) = other
    with pytest.raises(ValueError, match=f"another training: {name} was"):
        train(network(), checkpoint=path, **other)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt.*remove it"):
        train(network(), checkpoint=path)


class Code:
    def __reduce__(self):
        return print, ("executed",)


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"
    torch.save({"settings": Code()}, path)
    with pytest.raises(ValueError, match="damaged"):
        train(network(), checkpoint=path)
    assert "executed" not in capsys.readouterr().out


# --- what is trained -----------------------------------------------------------------------------------------------


def test_one_cycle_by_hand():
    """The loop written out; without dropout nothing is random."""
    ours, net = network(), network()
    for dropout in (ours[3], net[3]):
        dropout.p = 0.0
    history = train(ours)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=STEPS * EPOCHS)
    net.train()
    for epoch in range(EPOCHS):
        seen = []
        for x, y in batches(epoch):
            loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen.append(loss.item())
        assert history[epoch].loss == pytest.approx(sum(seen) / STEPS)
    assert same(ours, net)


def test_adversarial_training_by_hand():
    """One step of an attack without chance; the attack's passes leave no trace in the running statistics."""
    attack = PGD(0.1, steps=3, random_start=False)
    ours, net = network(), network()
    for dropout in (ours[3], net[3]):
        dropout.p = 0.0
    options = {"epochs": 1, "attack": attack}
    for trained in (ours,):
        optimizer = torch.optim.SGD(trained.parameters(), 0.1)
        fit(trained, lambda epoch: [(X, Y)], losses, optimizer=optimizer, **options)
    net.train()
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    attacked = attack(lambda x: losses(net(x), Y), X)
    for name, value in net.named_buffers():
        value.copy_(buffers[name])
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    losses(net(attacked), Y).mean().backward()
    optimizer.step()
    assert same(ours, net)
    assert int(ours[1].num_batches_tracked) == 1


@pytest.mark.parametrize(("attack", "passes"), [(None, 1), (PGD(0.1, steps=7), 8), (PGD(0.1, steps=3), 4)])
def test_passes_are_counted(attack, passes):
    """Every step of the attack, and the one of training, is a pass forward and one back."""
    history = train(network(), epochs=2, attack=attack)
    assert [(epoch.forward, epoch.backward) for epoch in history] == [(STEPS * passes, STEPS * passes)] * 2


def test_the_best_weights_are_kept():
    scores, states = iter([0.1, 0.7, 0.7, 0.3]), []

    def validate(net):
        assert not net.training
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        return {"score": next(scores), "other": 1.0}

    net = network()
    history = train(net, epochs=4, validate=validate)
    assert [epoch.scores["score"] for epoch in history] == [0.1, 0.7, 0.7, 0.3]
    assert not net.training
    assert all(torch.equal(value, states[1][name]) for name, value in net.state_dict().items())
    assert not torch.equal(states[1]["0.weight"], states[3]["0.weight"])


def test_patience_ends_a_training():
    scores = iter([0.1, 0.7, 0.3, 0.7, 0.9])
    history = train(network(), epochs=5, validate=lambda net: {"score": next(scores)}, patience=2)
    assert len(history) == 4


def test_a_loss_that_is_not_finite_ends_a_training():
    with pytest.raises(FloatingPointError, match="loss of epoch 0 is nan"):
        fit(network(), batches, lambda logits, y: losses(logits, y) * float("nan"), epochs=1)


def test_no_batches():
    with pytest.raises(ValueError, match="no batches in epoch 0"):
        fit(network(), lambda epoch: [], losses, epochs=1, optimizer=torch.optim.SGD(network().parameters(), 0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"patience": 1}, "patience needs validate"),
        ({"patience": 0, "validate": accuracy}, "patience needs validate"),
        ({"autocast": torch.float16}, "bfloat16"),
        ({"schedule": object()}, "belongs to an optimizer"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        train(network(), **options)


def test_an_attack_needs_the_loss_of_every_sample():
    with pytest.raises(ValueError, match=r"shape \(8,\)"):
        fit(network(), batches, nn.CrossEntropyLoss(), epochs=1, attack=PGD(0.1, steps=1))


def test_weights_that_share_memory_can_be_saved(tmp_path):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    save_weights(net.to(memory_format=torch.channels_last), tmp_path / "net.safetensors")
    loaded = load_file(tmp_path / "net.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in net.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


# --- several processes ---------------------------------------------------------------------------------------------


def plain_network():
    """No batch statistics and no dropout: two ranks then train as one would."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 3))


def odd_batches(epoch):
    return [(X[i], Y[i]) for i in torch.arange(63).split(9)]


def _train_on_a_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    net = plain_network()
    options = {"epochs": 2, "validate": accuracy, "checkpoint": folder / "checkpoint.pt", "checkpoint_seconds": 0}
    stopped = False
    try:
        fit(net, odd_batches, losses, progress=stop_after(9), **options)
    except Stop:
        stopped = True
    torch.distributed.barrier()
    net = plain_network()
    history = fit(net, odd_batches, losses, **options)
    torch.save(
        {"net": net.state_dict(), "loss": [epoch.loss for epoch in history], "stopped": stopped}, folder / f"{rank}"
    )
    torch.distributed.destroy_process_group()


@pytest.mark.long
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_ranks_train_as_one(tmp_path):
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    context.set_forkserver_preload(["shrinkstats.adapters.torch"])  # once, not in every rank
    processes = [context.Process(target=_train_on_a_rank, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        process.kill()
        assert process.exitcode == 0
    alone = plain_network()
    history = fit(alone, odd_batches, losses, epochs=2, validate=accuracy)
    ranks = [torch.load(tmp_path / str(rank), weights_only=True) for rank in (0, 1)]
    for found in ranks:
        assert found["stopped"]
        assert found["loss"] == pytest.approx([epoch.loss for epoch in history], rel=1e-5)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(found["net"][name], value, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(ranks[0]["net"][name], value) for name, value in ranks[1]["net"].items())
