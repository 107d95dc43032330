"""What loaders give, and what is left of a network when they give something else."""

import copy
from collections import UserDict, namedtuple

import pytest

from shrinkstats.estimators import PriorBlend, Stein

torch = pytest.importorskip("torch", reason="needs the extra shrinkstats[torch]")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from shrinkstats.adapters.torch import adapt, adapted, calibrate, convert, grouped, shift_report  # noqa: E402


class Net(nn.Module):
    """Takes keywords, and a flag that changes nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, pixel_values, labels=None, *, scale=1):
        return {"logits": self.norm(self.conv(scale * pixel_values)).mean((2, 3)), "loss": labels}


IMAGES = torch.randn(24, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24)
Batch = namedtuple("Batch", "images labels")


class Encoding(UserDict):
    """As transformers' BatchEncoding."""

    def to(self, device):
        return Encoding({k: v.to(device) for k, v in self.items()})


def split(make):
    return [make(x, y) for x, y in zip(IMAGES.split(8), LABELS.split(8), strict=True)]


LOADERS = {
    "tensors": split(lambda x, y: x),
    "one tensor of batches": IMAGES.reshape(3, 8, 3, 6, 6),
    "pairs": split(lambda x, y: (x, y)),
    "image, label, index": split(lambda x, y: [x, y, y]),
    "named": split(Batch),
    "keywords": split(lambda x, y: {"pixel_values": x, "labels": y}),
    "more than keywords": split(lambda x, y: {"index": y, "pixel_values": x, "scale": 1}),
    "an encoding": split(lambda x, y: Encoding(pixel_values=x, labels=y)),
    "keywords and a label": split(lambda x, y: ({"pixel_values": x}, y)),
    "DataLoader": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8),
    "a generator": None,
}
FORWARDS = {
    "other names": (split(lambda x, y: {"image": x, "y": y}), lambda model, batch: model(batch["image"])),
    "views": (split(lambda x, y: ((y, x), y)), lambda model, batch: model(batch[0][1], labels=batch[1])),
    "objects": (split(lambda x, y: lambda: x), lambda model, batch: model(pixel_values=batch())),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", [*LOADERS, *FORWARDS])
def test_loaders(kind):
    loader, forward = FORWARDS.get(kind) or (LOADERS[kind], None)

    def again():
        return loader if loader is not None else (x for x in IMAGES.split(8))

    net = calibrate(Net().eval(), again(), forward=forward)
    torch.testing.assert_close(net.norm.noise_mean, net.conv(IMAGES).mean((2, 3)).var(0))
    report = shift_report(net, again(), forward=forward)
    assert (report.images, report.rows[0]["n"]) == (24, 8)
    x = net.conv(IMAGES).double()
    shift = (x.mean((0, 2, 3)) - net.norm.running_mean) / net.norm.running_var.sqrt()
    ratio = x.var((0, 2, 3), correction=0).sqrt() / net.norm.running_var.sqrt()
    assert report.distance == pytest.approx(float((shift.square() + (ratio - 1).square()).mean().sqrt()), rel=1e-5)


BAD = {
    "images for batches": (IMAGES, None, ValueError, r"shape \(24, 3, 6, 6\).*pass \[tensor\] or tensor\.split\(64\)"),
    "a data set": (TensorDataset(IMAGES), None, ValueError, "is a Dataset, .* DataLoader"),
    "a batch": ({"pixel_values": IMAGES}, None, TypeError, r"pass \[batch\]"),
    "other keywords": ([{"x": IMAGES}], None, TypeError, "with x, but Net.forward takes pixel_values.*pass forward="),
    "nested": ([((IMAGES, IMAGES), 1)], None, TypeError, "a tuple of tuple, int; .* pass forward="),
    "arrays": ([IMAGES.numpy()], None, TypeError, "tensors.* got ndarray; .* pass forward="),
    "nothing to iterate": (3, None, TypeError, "loader must be an iterable"),
    "text": ("data", None, TypeError, "loader must be an iterable"),
    "no function": ([IMAGES], "forward", TypeError, "forward must be a function"),
    "past the network": ([IMAGES], lambda m, x: m.norm(m.conv(x)), ValueError, r"forward must call model\(\.\.\.\)"),
    "infinite": ([IMAGES / 0], None, ValueError, "not finite"),
    "damaged later": ([IMAGES, "broken"], None, TypeError, "got str"),
}


def interrupted():
    yield IMAGES[:8]
    raise KeyboardInterrupt


def everything(net):
    """All that there is to a network, by module."""
    found = {}
    for name, module in net.named_modules():
        own = {k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers", "_modules")}
        tensors = {
            k: None if v is None else (id(v), v.clone()) for k, v in {**module._parameters, **module._buffers}.items()
        }
        found[name] = (type(module), {k: copy.copy(v) if isinstance(v, dict) else v for k, v in own.items()}, tensors)
    return found


def assert_as_before(net, before):
    after = everything(net)
    assert after.keys() == before.keys()
    for name, (kind, own, tensors) in after.items():
        assert (kind, own) == before[name][:2], name
        assert list(own) == list(before[name][1])
        assert list(tensors) == list(before[name][2])
        for k, value in tensors.items():
            assert (value is None) == (before[name][2][k] is None)
            assert value is None or (value[0] == before[name][2][k][0] and torch.equal(value[1], before[name][2][k][1]))


class Deep(nn.Module):
    """A network in a network, with a layer that is shared, one in another mode, and hooks."""

    def __init__(self):
        super().__init__()
        self.net = Net()
        self.again = nn.Sequential(nn.BatchNorm1d(4), nn.Identity())
        self.again[0].eval()
        self.again[0].register_forward_hook(print)
        self.alias = self.again[0]

    def forward(self, pixel_values):
        return self.alias(self.net(pixel_values)["logits"])


STATES = {
    "plain": lambda net: net,
    "converted": lambda net: convert(net, Stein()),
    "adapted": lambda net: adapt(calibrate(net.eval(), [IMAGES]), PriorBlend(3)),
    "streaming": lambda net: adapt(calibrate(net.eval(), [IMAGES]), PriorBlend(3), memory=9),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", [*BAD, "interrupted"])
@pytest.mark.parametrize("call", [calibrate, shift_report])
def test_after_an_error_the_network_is_as_it_was(state, kind, call):
    if kind == "infinite" and call is shift_report:
        pytest.skip("a report of infinite images")
    loader, forward, error, message = BAD.get(kind) or (interrupted(), None, KeyboardInterrupt, None)
    net = STATES[state](Net())
    before = everything(net)
    with pytest.raises(error, match=message):
        call(net, loader, forward=forward)
    assert_as_before(net, before)


@pytest.mark.parametrize("state", STATES)
def test_inner_networks_too(state):
    deep = STATES[state](Deep())
    before = everything(deep)
    with pytest.raises(KeyboardInterrupt):
        calibrate(deep, interrupted())
    assert_as_before(deep, before)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("raises", [False, True])
def test_adapted_leaves_everything_as_it_was(state, raises):
    deep = STATES[state](Deep()).eval()
    deep(IMAGES[:4])
    before = everything(deep)
    stream = deep.alias.adaptation.state.long if state == "streaming" else None
    expected = deep(IMAGES[:4]) if state != "streaming" else None
    try:
        with adapted(deep, PriorBlend(8), memory=16) as same:
            assert same is deep
            assert deep.alias.adaptation.capacity == 16
            deep(IMAGES[4:8])
            with adapted(deep, PriorBlend(2)), grouped(deep, 2):
                assert deep.alias.adaptation == PriorBlend(2)
                deep(IMAGES[:4])
            assert deep.alias.adaptation.capacity == 16
            calibrate(deep, [IMAGES])
            if raises:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert raises
    assert_as_before(deep, before)
    if expected is None:
        assert deep.alias.adaptation.state.long is stream
    else:
        assert torch.equal(deep(IMAGES[:4]), expected)


def test_adapt_and_convert_that_fail_change_nothing():
    from shrinkstats.estimators import RobustNorm

    for state in STATES.values():
        net = state(Net()).eval()
        before = everything(net)
        for call in (
            lambda net: adapt(net, RobustNorm(), memory=4),
            lambda net: adapt(net, PriorBlend(3), exclude=["nrom"]),
            lambda net: convert(net, "stein"),
            lambda net: convert(net, Stein(), exclude=[nn.Identity()]),
        ):
            with pytest.raises((ValueError, TypeError)):
                call(net)
            assert_as_before(net, before)


# --- which tensor is the images --------------------------------------------------------------------------------


class Masked(nn.Module):
    """Takes more than images, before them."""

    def __init__(self, flat=False):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.flat = Net(), flat
        self.last = nn.BatchNorm1d(4)

    def forward(self, mask, images, statistics=None):
        y = self.net.conv(images) + 0 * mask.mean()
        if self.flat:
            return self.last(y.flatten(2).transpose(1, 2).flatten(0, 1))
        return self.last(self.net.norm(y).mean((2, 3)))


MASKS = {
    "tokens": torch.ones(16, 16),
    "a time step": torch.ones(1),
    "two steps": torch.ones(2),
    "a number": torch.ones(()),
}


@torch.no_grad()
@pytest.mark.parametrize("rows", [8, 1])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("call", ["keywords", "keywords, and a forward", "positions"])
def test_images_are_counted_whatever_enters_before_them(call, mask, rows):
    loader = [
        {"mask": MASKS[mask], "images": x, "statistics": torch.ones(3)} for x in (*IMAGES.split(rows), IMAGES[:2])
    ]
    forward = {
        "keywords": None,
        "keywords, and a forward": lambda model, batch: model(**batch),
        "positions": lambda model, batch: model(batch["mask"], batch["images"]),
    }[call]
    net = calibrate(Masked().eval(), loader, forward=forward, batches=100)
    expected = calibrate(Masked().net.eval(), [batch["images"] for batch in loader], batches=100)
    assert (net.net.norm.image_rows, net.last.image_rows) == (1, 1)
    torch.testing.assert_close(net.net.norm.noise_mean, expected.norm.noise_mean)
    report = shift_report(net, loader, forward=forward)
    assert (report.images, report.rows[0]["n"]) == (26, rows)
    adapt(net, PriorBlend(3))
    with grouped(net, 1):
        y = net(**loader[0])
    torch.testing.assert_close(y[:1], net(MASKS[mask], loader[0]["images"][:1]))


def test_what_says_nothing_of_the_number_of_images_is_named():
    loader = [{"mask": MASKS["tokens"], "images": x} for x in IMAGES.split(8)]
    for call in (calibrate, shift_report):
        net = Masked(flat=True).eval()
        before = everything(net)
        with pytest.raises(
            ValueError, match=r"layer last sees 128 rows.*Masked \(mask of length 16, images of length 8\)"
        ):
            call(net, loader)
        assert_as_before(net, before)
    net = calibrate(
        Masked(flat=True).eval(),
        loader,
        forward=lambda model, batch: model(images=batch["images"], mask=batch["mask"]),
        exclude=["net"],
    )
    assert net.last.image_rows == 16
    assert shift_report(net, loader, exclude=["net"]).images == 24  # which is known now
    adapt(net, PriorBlend(3), exclude=["net"])
    with grouped(net, 2):
        net(**loader[0])


def test_a_forward_that_calls_the_network_for_batches_of_several_sizes():
    net = calibrate(Net().eval(), [IMAGES], forward=lambda model, x: (model(x[:16]), model(x[16:])))
    torch.testing.assert_close(net.norm.noise_mean, net.conv(IMAGES).mean((2, 3)).var(0).detach())
    assert shift_report(net, [IMAGES], forward=lambda model, x: (model(x[:16]), model(x[16:]))).images == 24


# --- exclude ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "module", "alias", "parent"])
def test_exclude(by):
    net = Deep().eval()
    exclude = {"name": ["again.0"], "module": [net.alias], "alias": ("alias",), "parent": iter(["again"])}[by]
    given = list(exclude)
    calibrate(net, [IMAGES], exclude=given)
    adapt(net, PriorBlend(3), exclude=given)
    convert(net, Stein(), exclude=given)
    assert type(net.alias) is nn.BatchNorm1d
    assert net.net.norm.adaptation == PriorBlend(3)
    assert [row["layer"] for row in shift_report(net, [IMAGES], exclude=given).rows] == ["net.norm"]
    with adapted(net, PriorBlend(2), exclude=given):
        assert type(net.alias) is nn.BatchNorm1d
    assert type(net.alias) is nn.BatchNorm1d


def test_excluded_layers_may_be_of_any_kind():
    class Strange(nn.BatchNorm2d):
        def forward(self, x):
            return x

    net = nn.Sequential(nn.BatchNorm2d(3), Strange(3), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    with pytest.raises(TypeError, match="exclude= leaves layers out"):
        convert(net, Stein())
    calibrate(net, [IMAGES], exclude=["1", net[2]])
    assert type(net[1]) is Strange


def test_errors_of_exclude():
    net = Net().eval()
    with pytest.raises(ValueError, match=r"Net has no module 'nrom'; names are those of model\.named_modules"):
        adapt(net, PriorBlend(3), exclude=["nrom"])
    with pytest.raises(ValueError, match="Net has no module this Identity"):
        adapt(net, PriorBlend(3), exclude=[nn.Identity()])
    with pytest.raises(TypeError, match=r"as \['head'\], got 'norm'"):
        calibrate(net, [IMAGES], exclude="norm")
    with pytest.raises(TypeError, match="exclude must be an iterable"):
        calibrate(net, [IMAGES], exclude=nn.Sequential(net))
    with pytest.raises(ValueError, match="no batch norm layers to convert besides those excluded"):
        convert(net, Stein(), exclude=["norm"])


# --- modes -----------------------------------------------------------------------------------------------------


def test_a_network_in_training_says_that_it_does_not_adapt():
    with pytest.warns(UserWarning, match=r"1 of 1 layers are in training mode.*model\.eval\(\)") as found:
        adapt(Net(), PriorBlend(3))
    assert found[0].filename == __file__
    with pytest.warns(UserWarning, match="training mode") as found, adapted(Net(), PriorBlend(3)):
        pass
    assert found[0].filename == __file__
    net = Net()
    net.norm.eval()
    adapt(net, PriorBlend(3))
