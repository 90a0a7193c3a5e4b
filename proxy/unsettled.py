"""The calls of one worker whose cost the ledger has not been told, in a file that outlives the process.

The file is mapped memory: keeping a call takes no system call, and a killed process leaves every store behind. A power
cut does not, so that nothing else was spent is believed of the boot that it was written in alone.
"""
from __future__ import annotations

import fcntl
import logging
import mmap
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import msgspec

from proxy.backlog import Operation
from proxy.lease import Account
from proxy.room import take_room

log = logging.getLogger(__name__)

_SLOTS = 16_384  # of the file; the first says whose it is
_SIZE = 256  # bytes of a slot
_MOST_PLACES = 12  # budgets of one call; one with more is reserved at the ledger
_TEXT = 56  # where a slot's text begins
_STATE = _SIZE - 1  # where its state is: its last byte, which is stored last, so that no torn slot counts
_MANY = 1000  # names of budgets and periods kept, from which on those that no call needs are looked for
_FREE, _OWNER, _PLACE, _HELD, _ENDED = range(5)  # states

# By number of places: that number, bytes of text; held, actual nano-dollars, reserved ns; slots of its places; text;
# state. One store keeps a whole call [0.77 µs when head, text and state were stored one by one, so 0.65].
_SHAPES = [
    Struct(f"<BB6xqqq{places}H{_TEXT - 32 - 2 * places}x{_STATE - _TEXT}sB") for places in range(_MOST_PLACES + 1)
]
_ACTUAL = Struct("<q")
_ACTUAL_AT = 16
_BOOT = Path("/proc/sys/kernel/random/boot_id")

Slot = int  # 0: none


class Unsettled:
    """The file of one worker, made when it is first needed."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._worker = worker
        self._path = folder / f"unsettled-{worker}"
        self._file: BinaryIO | None = None
        self._memory: mmap.mmap | None = None
        self._free: list[Slot] = []
        self._places: dict[Slot, Account] = {}
        self._many = _MANY
        self._is_refused = False  # the disk took no file

    def hold(self, request_id: str, amount_nusd: int, reserved_ns: int, accounts: Sequence[Account]) -> Slot:
        """Keep what a call may cost, before it may cost anything; 0 where there is no room to."""
        memory = self._memory or self.open()
        text = request_id.encode()
        if memory is None or not self._free or len(text) > _STATE - _TEXT or len(accounts) > _MOST_PLACES:
            return 0
        places = [one.place or self._place(one) for one in accounts]
        if 0 in places or not self._free:
            return 0
        slot = self._free.pop()
        count = len(places)
        _SHAPES[count].pack_into(
            memory, slot * _SIZE, count, len(text), amount_nusd, 0, reserved_ns, *places, text, _HELD
        )
        return slot

    def ended(self, slot: Slot, actual_nusd: int) -> None:
        """Keep what the call came to."""
        if not slot or self._memory is None:
            return
        at = slot * _SIZE
        _ACTUAL.pack_into(self._memory, at + _ACTUAL_AT, actual_nusd)
        self._memory[at + _STATE] = _ENDED

    def told(self, slot: Slot) -> None:
        """Forget a call: the ledger, or the backlog, has it."""
        if slot and self._memory is not None:
            self._memory[slot * _SIZE + _STATE] = _FREE
            self._free.append(slot)

    def left_behind(self) -> list[Path]:
        """Return the files of other workers, dead or alive."""
        return [path for path in sorted(self._folder.glob("unsettled-*")) if path != self._path]

    def close(self, is_all_told: bool) -> None:
        """Let the file go; it is removed unless there is something to tell that another worker has to."""
        if self._memory is not None and self._file is not None:
            if is_all_told:
                self._path.unlink(missing_ok=True)
            self._memory.close()
            self._file.close()
            self._memory = self._file = None

    def open(self) -> mmap.mmap | None:
        """Have the file there, so that the worker's end can be told of from now on; None: the disk takes none."""
        if self._memory is None:
            try:
                self._memory = self._made()
            except OSError as error:
                if not self._is_refused:
                    log.error("ledger: %s cannot be made, so that nothing is leased: %s", self._path, error)
                self._is_refused = True
        return self._memory

    def _made(self) -> mmap.mmap:
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._folder / f"new-{self._worker}"
        with ExitStack() as undo:
            undo.callback(new.unlink, missing_ok=True)
            file = undo.enter_context(new.open("w+b", buffering=0))
            fcntl.flock(file, fcntl.LOCK_EX)
            take_room(file.fileno(), _SLOTS * _SIZE)
            memory = mmap.mmap(file.fileno(), _SLOTS * _SIZE)
            _write(memory, 0, _OWNER, msgspec.json.encode([self._worker, _boot()]))
            new.rename(self._path)  # nobody finds it before it is locked
            undo.pop_all()
        self._file, self._free = file, list(range(_SLOTS - 1, 0, -1))
        return memory

    def _place(self, account: Account) -> Slot:
        """Keep the names of a budget and its period; 0 where they are too long, or there is no room."""
        assert self._memory is not None
        text = msgspec.json.encode([account.budget, account.period])
        if len(text) > _STATE - _TEXT:
            return 0
        if len(self._places) >= self._many:
            self._forget_places()
            self._many = max(_MANY, 2 * len(self._places))
        slot = account.place = self._free.pop()
        self._places[slot] = account
        _write(self._memory, slot, _PLACE, text)
        return slot

    def _forget_places(self) -> None:
        assert self._memory is not None
        slots = (_read(self._memory, number) for number in range(1, _SLOTS))
        needed = {place for slot in slots if slot.state in (_HELD, _ENDED) for place in slot.places}
        for slot in [slot for slot, account in self._places.items() if account.is_ended and slot not in needed]:
            del self._places[slot]
            self.told(slot)


class _Read(msgspec.Struct):
    state: int
    places: tuple[Slot, ...]
    held_nusd: int
    actual_nusd: int
    reserved_ns: int
    text: bytes


def _read(memory: bytes | mmap.mmap, slot: Slot) -> _Read:
    at = slot * _SIZE
    shape = _SHAPES[min(memory[at], _MOST_PLACES)]
    _, size, held, actual, reserved, *numbers, text, state = shape.unpack_from(memory, at)
    return _Read(state, tuple(numbers), held, actual, reserved, text[:size])


def _write(memory: mmap.mmap, slot: Slot, state: int, text: bytes) -> None:
    _SHAPES[0].pack_into(memory, slot * _SIZE, 0, len(text), 0, 0, 0, text, state)


def operations_of(path: Path) -> list[Operation] | None:
    """Return what the ledger has to hear of a dead worker, the end of its leases last; None where it lives.

    A call that was under way is charged what it may have cost, until somebody knows better.
    """
    with path.open("rb") as left:
        try:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        memory = left.read()
    if len(memory) != _SLOTS * _SIZE or memory[_STATE] != _OWNER:
        log.warning("ledger: %s is not whole; the leases of its worker expire", path)
        return []
    worker, boot = msgspec.json.decode(_read(memory, 0).text, type=tuple[str, str])
    found = [_read(memory, slot) for slot in range(1, _SLOTS) if memory[slot * _SIZE + _STATE] != _FREE]
    calls = [_operation(worker, one, memory) for one in found if one.state in (_HELD, _ENDED)]
    return calls + ([{"op": "retire", "worker": worker}] if boot and boot == _boot() else [])


def _operation(worker: str, slot: _Read, memory: bytes) -> Operation:
    request_id = slot.text.decode()
    actual = slot.actual_nusd if slot.state == _ENDED else slot.held_nusd
    if not slot.places:
        return {"op": "settle", "request_id": request_id, "attempt": 0, "actual_nusd": actual}
    places = [msgspec.json.decode(_read(memory, place).text) for place in slot.places]
    return {
        "op": "draw", "worker": worker, "request_id": request_id, "attempt": 0, "held_nusd": slot.held_nusd,
        "actual_nusd": actual, "places": places, "reserved_ns": slot.reserved_ns,
        "is_guess": slot.state == _HELD,
    }  # fmt: skip


def _boot() -> str:
    """Return what tells this boot of the machine from others; '' where the system does not say."""
    return _BOOT.read_text().strip() if _BOOT.exists() else ""
