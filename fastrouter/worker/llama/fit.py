"""--fit: what is left open of a model's options is chosen so that it fits into memory. The choice is llama-server's, from the same counts.

Pure: what a choice would take is asked of `measure`. Only what nobody has set changes: the context, then the layers on devices. Where
llama-server gives up, the KV cache becomes smaller (q8_0) first. Never imports: worker.llama.binding, worker.llama.model,
worker.llama.memory_use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from fastrouter.errors import FastrouterError
from fastrouter.options.load import LoadOptions

MIB = 1 << 20
ALIGNMENT = 256  # tokens of a context, for each of its separate caches
_SMALL_CACHE = "q8_0"
_UINT32 = 1 << 32
_EVERY_EXPERT = r"blk\.\d+\.ffn_(up|down|gate_up|gate)_(ch|)exps"


class Place(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def buffer(self) -> str: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def free_bytes(self) -> int: ...
    @property
    def model_bytes(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...


class Use(Protocol):
    @property
    def devices(self) -> Sequence[Place]: ...
    @property
    def host(self) -> Place: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_experts(self) -> int: ...
    @property
    def n_ctx_train(self) -> int: ...


Measure = Callable[[LoadOptions], Use]


@dataclass(frozen=True, slots=True)
class Fitted:
    options: LoadOptions
    failure: str = ""  # why it will probably not fit; empty: it fits


class _CannotFit(Exception):
    """With the reason."""


def fit(measure: Measure, options: LoadOptions, host_limit_bytes: int = 0) -> Fitted:
    """`host_limit_bytes`: what it may take of the host's memory; 0: all but the margin."""
    found = _Fit(measure, options, host_limit_bytes).run()
    if not found.failure or options.keeps_cache_types or options.flash_attn == "off":
        return found
    small = replace(options, cache_type_k=_SMALL_CACHE, cache_type_v=_SMALL_CACHE)
    try:
        other = _Fit(measure, small, host_limit_bytes).run()
    except FastrouterError:  # this model's cache cannot have that type
        return found
    return found if other.failure else other


class _Part(Enum):
    """Of a layer that is not wholly on its device: what is left to the next place. The value: names of the tensors there."""

    EXPERTS = "ffn_(up|down|gate_up|gate)_(ch|)exps"
    ALL_FFN = "ffn_(gate|up|gate_up|down).*"
    ALL_BUT_UP = "ffn_(gate|gate_up|down).*"
    DOWN = "ffn_down.*"


@dataclass(slots=True)
class _Share:
    """Layers of one device."""

    num_layers: int = 0
    num_partial: int = 0  # of these, the first ones, without their experts
    first: _Part = _Part.EXPERTS  # what the first partial layer leaves to the next place

    @property
    def num_whole(self) -> int:
        return self.num_layers - self.num_partial


@dataclass(slots=True)
class _Division:
    """How the layers are divided among the devices, and what that takes of each."""

    shares: list[_Share]
    overflow: list[str]  # for each device, the buffer type where its first partial layer's rest is
    used: list[int] = field(default_factory=list)
    dense_from: int = 0  # the first device with partial layers

    def copy(self) -> "_Division":
        return _Division([replace(share) for share in self.shares], list(self.overflow), list(self.used), self.dense_from)


class _Fit:
    def __init__(self, measure: Measure, options: LoadOptions, host_limit_bytes: int) -> None:
        self._measure_options = measure
        self._options = options
        self._host_limit = host_limit_bytes
        self._num_caches = options.num_caches
        self._is_ctx_free = options.num_cells(0) == 0  # neither --ctx-size nor --kv-unified-per-slot says it
        self._full = measure(options)
        self._devices = list(self._full.devices)
        self._has_experts = self._full.num_experts > 0
        self._targets = [place.free_bytes - margin for place, margin in zip(self._devices, self._margins(), strict=False)]

    def run(self) -> Fitted:
        try:
            self._fit()
        except _CannotFit as reason:
            return Fitted(self._options, str(reason))
        return Fitted(self._options)

    def _measure(self, **changes: object) -> Use:
        return self._measure_options(replace(self._options, **changes))  # type: ignore[arg-type]

    # ------------------------------------------------------------ the context

    def _fit(self) -> None:
        if self._options.split_mode == "tensor":
            raise _CannotFit("--fit cannot divide layers with --split-mode tensor")
        if self._devices:
            missing = any(place.used_bytes > target for place, target in zip(self._devices, self._targets, strict=True))
            target, used = sum(self._targets), sum(place.used_bytes for place in self._devices)
        else:
            target, used = self._host_target(), self._full.host.used_bytes
            missing = used > target
        if missing and (used <= target or not self._shorten(used, target)):
            self._divide()

    def _margins(self) -> list[int]:
        given = self._options.fit_target
        count = max(1, len(self._devices))
        return [MIB * size for size in (given * count if len(given) == 1 else [*given, *[1024] * count])[:count]]

    def _host_target(self) -> int:
        target = self._full.host.total_bytes - self._margins()[0]
        return min(target, self._host_limit) if self._host_limit else target

    def _shorten(self, used: int, target: int) -> bool:
        """A shorter context, if it is free. True: now all fits."""
        most = min(self._options.num_cells(self._full.n_ctx_train), _UINT32 - 1)
        least = min(self._options.fit_ctx * self._num_caches, _UINT32 - 1)
        if not self._is_ctx_free or self._options.has_full_context or most <= least:
            return False
        count = len(self._devices)
        if count > 1:  # only whole layers, or whole tensors of experts, can be given to a device
            asked, num_layers = self._options.gpu_layers, self._full.num_layers
            num_moved = min(asked, num_layers) if asked >= 0 else num_layers
            per_layer = sum(place.model_bytes for place in self._devices) // max(1, num_moved)
            target -= (count + 1) * per_layer // (6 if self._has_experts else 2)
        shortest = self._measure(ctx_size=least)
        places = shortest.devices if self._devices else [shortest.host]
        used_then = sum(place.used_bytes for place in places)
        chosen = least
        if target > used_then:
            chosen += (most - least) * (target - used_then) // (used - used_then)
            chosen = max(chosen - chosen % (ALIGNMENT * self._num_caches), least)
        self._options = replace(self._options, ctx_size=chosen)
        return target > used_then and count <= 1

    # ------------------------------------------------------------ layers on devices

    def _divide(self) -> None:
        self._check_is_free()
        count = len(self._devices)
        start = _Division([_Share() for _ in range(count)], ["CPU"] * count)
        start.used = self._used(start)
        found = self._fill_from_the_end(start)
        if self._has_experts and self._has_room_for_all_dense():
            found = self._make_whole(found)
        self._options = self._divided(found)

    def _check_is_free(self) -> None:
        options, count = self._options, len(self._devices)
        if not count:
            raise _CannotFit("a shorter context is not enough")
        if options.gpu_layers >= 0:
            raise _CannotFit(f"--gpu-layers {options.gpu_layers} is set")
        if count > 1 and any(options.tensor_split):
            raise _CannotFit("--tensor-split is set")
        if count > 1 and options.split_mode == "row":
            raise _CannotFit("--fit cannot divide layers with --split-mode row")
        if options.override_tensor or options.cpu_moe or options.n_cpu_moe or options.n_cpu_ffn:
            raise _CannotFit("--override-tensor, --cpu-moe, --n-cpu-moe or --n-cpu-ffn is set")

    def _divided(self, division: _Division) -> LoadOptions:
        num_layers = sum(share.num_layers for share in division.shares)
        overrides: list[list[str]] = []
        layer = self._full.num_layers + 1 - num_layers
        for share, buffer in zip(division.shares, division.overflow, strict=True):
            layer += share.num_whole
            for index in range(share.num_partial):
                part, place = (share.first, buffer) if index == 0 else (_Part.EXPERTS, "CPU")
                overrides.append([rf"blk\.{layer + index}\.{part.value}", place])
            layer += share.num_partial
        split = [float(share.num_layers) for share in division.shares] if len(division.shares) > 1 else []
        return replace(self._options, gpu_layers=num_layers, tensor_split=split, override_tensor=overrides)

    def _used(self, division: _Division) -> list[int]:
        return [place.used_bytes for place in self._measure_options(self._divided(division)).devices]

    def _with(self, division: _Division) -> _Division:
        division.used = self._used(division)
        return division

    def _has_room_for_all_dense(self) -> bool:
        """Whether all but the experts fits on the devices."""
        found = self._measure(override_tensor=[[_EVERY_EXPERT, "CPU"]])
        return sum(self._targets) > sum(place.used_bytes for place in found.devices)

    def _fill_from_the_end(self, division: _Division) -> _Division:
        """Layers without experts for each device, the last device first: it has the output layer, which is always whole."""
        last = len(division.shares) - 1
        for device in range(last, -1, -1):
            left = self._full.num_layers + 1 - sum(share.num_layers for share in division.shares[device + 1 :])
            all_left = division.copy()
            share = all_left.shares[device]
            share.num_layers = left
            if self._has_experts:
                share.num_partial = left if device < last else left - 1
            if left <= 0:
                continue
            self._with(all_left)
            if all_left.used[device] <= self._targets[device]:
                division = all_left
            else:
                division = self._between(device, division, all_left, self._add_dense, lambda share: share.num_layers)
        return division

    def _between(
        self,
        device: int,
        low: _Division,
        high: _Division,
        add: Callable[[_Division, int, int], None],
        count: Callable[[_Share], int],
    ) -> _Division:
        """The most layers that fit: `low` fits and `high` does not. Each try is where a straight line between them meets the target."""
        target = self._targets[device]
        while (delta := count(high.shares[device]) - count(low.shares[device])) > 1:
            tried = low.copy()
            add(tried, device, _step(delta, target - low.used[device], high.used[device] - low.used[device]))
            if self._with(tried).used[device] <= target:
                low = tried
            else:
                high = tried
        return low

    def _add_dense(self, division: _Division, device: int, step: int) -> None:
        share = division.shares[device]
        share.num_layers += step
        if self._has_experts:
            has_output = device == len(division.shares) - 1 and share.num_partial == 0
            share.num_partial += step - 1 if has_output else step

    # ------------------------------------------------------------ with experts

    def _make_whole(self, division: _Division) -> _Division:
        """Give layers their experts, on the first device first, as long as there is room."""
        last = len(division.shares) - 1
        first_dense = len(division.shares)
        for device in range(last, -1, -1):
            if division.shares[device].num_layers == 0:
                break
            first_dense = device
        division.dense_from = first_dense
        device = 0
        while device <= division.dense_from < len(division.shares):
            all_whole = self._with(self._all_whole_on(division, device))
            if all_whole.used[device] <= self._targets[device]:
                division = all_whole
            else:
                division = self._between(device, division, all_whole, _convert, lambda share: share.num_whole)
            division = self._with_a_part(division, device)
            device += 1
        return division

    def _all_whole_on(self, division: _Division, device: int) -> _Division:
        found, last = division.copy(), len(division.shares) - 1
        for other in range(division.dense_from, len(found.shares)):
            moved = found.shares[other].num_layers - (0 if other < last else 1)
            found.shares[device].num_layers += moved
            found.shares[other].num_layers -= moved
            found.shares[other].num_partial = 0
        found.dense_from = last
        return found

    def _with_a_part(self, division: _Division, device: int) -> _Division:
        """One more layer of which at least a part fits."""
        last = len(division.shares) - 1
        if division.dense_from > last or division.shares[division.dense_from].num_layers <= (0 if device < last else 1):
            return division
        tried = division.copy()
        source, share = tried.shares[tried.dense_from], tried.shares[device]
        source.num_layers -= 1
        source.num_partial -= 1
        share.num_layers += 1
        share.num_partial += 1
        if source.num_partial == 0:
            tried.dense_from += 1
        if device < last:
            tried.overflow[device] = self._devices[device + 1].buffer
        if self._fits_as(tried, device, _Part.ALL_BUT_UP):
            more = tried.copy()
            return more if self._fits_as(more, device, _Part.DOWN) else tried
        return tried if self._fits_as(tried, device, _Part.ALL_FFN) else division

    def _fits_as(self, division: _Division, device: int, part: _Part) -> bool:
        division.shares[device].first = part
        used = self._with(division).used
        behind = device + 1
        return used[device] < self._targets[device] and (behind == len(used) or used[behind] < self._targets[behind])


def _convert(division: _Division, device: int, step: int) -> None:
    """So many partial layers, of the devices behind, become whole ones of this device."""
    done = 0
    while division.dense_from < len(division.shares):
        source = division.shares[division.dense_from]
        moved = min(step - done, source.num_partial)
        source.num_layers -= moved
        source.num_partial -= moved
        division.shares[device].num_layers += moved
        done += moved
        if source.num_partial > 0:
            break
        division.dense_from += 1


def _step(delta: int, wanted: int, difference: int) -> int:
    """`delta * wanted / difference`, between 1 and delta - 1, with C's division and a number without sign."""
    found = int(delta * abs(wanted) // abs(difference)) if difference else 1
    if (wanted < 0) != (difference < 0):
        found = -found % _UINT32
    return min(max(found, 1), delta - 1)


def in_words(asked: LoadOptions, found: Fitted, use: Use) -> str:
    """What was chosen, for the log; empty: all is as it was asked for."""
    chosen, most = found.options, asked.num_cells(use.n_ctx_train)
    words = []
    if chosen.ctx_size != asked.ctx_size:
        words.append(f"{chosen.ctx_size} of {most} tokens of context")
    if chosen.gpu_layers != asked.gpu_layers:
        split = chosen.tensor_split if len(use.devices) > 1 else [float(chosen.gpu_layers)]
        each = ", ".join(f"{count:.0f} on {place.name}" for place, count in zip(use.devices, split, strict=False))
        words.append(f"{chosen.gpu_layers} of {use.num_layers + 1} layers on devices ({each})")
    if len(chosen.override_tensor) > len(asked.override_tensor):
        words.append(f"{len(chosen.override_tensor) - len(asked.override_tensor)} of them in part on the host or the next device")
    if chosen.cache_type_k != asked.cache_type_k:
        words.append(f"the KV cache as {chosen.cache_type_k}")
    return f"--fit: {', '.join(words)}" if words else ""
