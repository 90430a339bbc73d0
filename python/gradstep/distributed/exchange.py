"""What ranks do together: agree, sum gradients into shards, add up a norm, spread parameters."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradstep.arrays import Array
from gradstep.distributed.plan import Piece, buckets, cut
from gradstep.distributed.transport import (
    Bytes,
    DistributedError,
    Loan,
    Parcel,
    Pending,
    Transport,
    gather,
    gather_equal,
    largest_loan,
)
from gradstep.optim.gradients import block_sums, narrow, widen
from gradstep.spec.sums import SUM_BLOCK

__all__ = ["Exchange", "Squares"]

# A message: small enough to be added up from the cache, far below 2 GiB. So many are under way that
# what all others have sent, and was not used yet, takes at most STAGED bytes.
BUCKET = 2**20
LEAST_BUCKET = 2**16
STAGED = 2**25

HEADER = struct.Struct("16sqq32s")  # what is done, the step, flags, a digest
FAILED = 1


class Segment(NamedTuple):
    """A part of a message: number of the shard's piece, its elements, its bytes in the message.

    It begins with a block of sums.
    """

    number: int
    piece: Piece
    place: slice


# What happens to a part of the own shard: number of the piece, its elements, their sum.
Each: TypeAlias = Callable[[int, Piece, Array], None]


class Message(NamedTuple):
    segments: list[Segment]
    size: int


class Exchange:
    """The shards of all ranks, and the messages between them.

    sizes: elements of each tensor. items: bytes of an element of each, as a parameter. sums: the
    type in which gradients of each are added up. travels: that in which they travel, the same or
    one of 16 bits beside float32; gradients are of either.
    """

    def __init__(
        self,
        transport: Transport,
        sizes: Sequence[int],
        items: Sequence[int],
        sums: Sequence[np.dtype[Any]],
        travels: Sequence[np.dtype[Any]],
    ) -> None:
        self.transport = transport
        self.shards = cut(sizes, transport.size)
        self.pieces = self.shards[transport.rank]
        self.peers = [rank for rank in range(transport.size) if rank != transport.rank]
        self.failed: str | None = None
        self._travels = list(travels)
        self._widened = [own != dtype for own, dtype in zip(travels, sums, strict=True)]
        wire = [dtype.itemsize for dtype in travels]
        share = STAGED // 2 // max(1, len(self.peers))
        limit = max(LEAST_BUCKET, min(BUCKET, share // 8 * 8))
        self._depth = max(2, share // limit * 2)
        self._lent = largest_loan(transport)
        if self._lent:
            limit, self._depth = min(limit, self._lent // 2), 4
        # Gradients and parameters travel in the same parts.
        sizes = list(map(max, wire, items))
        parts = [list(buckets(shard, sizes, limit)) for shard in self.shards]
        self._gradients = [[_message(held, wire) for held in each] for each in parts]
        self._parameters = [[_message(held, items) for held in each] for each in parts]
        self._staging: dict[tuple[int, int], Bytes] = {}

    # Agreement

    def alive(self) -> None:
        """Raises DistributedError if an exchange has failed before."""
        if self.failed is not None:
            raise DistributedError(f"ranks have lost each other before: {self.failed}")

    def gather(self, own: bytes) -> list[bytes]:
        """What every rank has, by rank."""
        with self:
            return gather(self.transport, own)

    def agree(
        self, what: str, step: int, digest: bytes, flags: int, error: Exception | None = None
    ) -> list[int]:
        """The flags of all ranks, if all do the same; flags: even.

        Raises the error that this rank has, or DistributedError where another has one, does
        something else, is at another step, or has other values (digest); so do all ranks, and they
        can go on.
        """
        self.alive()
        mine = HEADER.pack(what.encode(), step, flags | (FAILED if error else 0), digest)
        with self:
            found = gather_equal(
                self.transport,
                np.frombuffer(mine, np.uint8),
                [HEADER.size] * self.transport.size,
            )
        headers = [HEADER.unpack(each.tobytes()) for each in found]
        first = headers[0]
        for rank, header in enumerate(headers):
            if header[:2] != first[:2]:
                calls = [f"{h[0].rstrip(bytes(1)).decode()!r} of step {h[1]}" for h in headers]
                raise DistributedError(
                    f"rank {rank}: calls {calls[rank]}, expected {calls[0]} as rank 0"
                )
        if any(header[2] & FAILED for header in headers):
            texts = self.gather(f"{type(error).__name__}: {error}".encode() if error else b"")
            if error is not None:
                raise error
            rank = next(i for i, text in enumerate(texts) if text)
            raise DistributedError(f"rank {rank}: {texts[rank].decode()}")
        for rank, header in enumerate(headers):
            if header[3] != first[3]:
                raise DistributedError(
                    f"rank {rank}: other hyperparameters at step {header[1]}, "
                    "expected those of rank 0"
                )
        return [header[2] for header in headers]

    def __enter__(self) -> None:
        self.alive()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Whatever ends an exchange halfway leaves messages under way, which others would find."""
        if error is not None:
            self.failed = str(error) or kind.__name__

    def pass_on(self, sends: list[Parcel], receives: list[Parcel], limit: int) -> None:
        """Moves memory between some of the ranks, in messages of so many bytes."""
        with self:
            rounds = zip_longest(_parts(sends, limit), _parts(receives, limit))
            for outward, inward in rounds:
                self.transport.start(outward or [], inward or []).wait()

    # Gradients

    def presence(self, own: Sequence[bool]) -> NDArray[np.bool_]:
        """(ranks, tensors): who has a gradient of what."""
        mine = np.array(own, np.bool_)
        with self:
            found = gather_equal(
                self.transport, mine.view(np.uint8), [mine.size] * self.transport.size
            )
        return np.stack([each.view(np.bool_) for each in found])

    def reduce(
        self,
        gradients: Sequence[Array | None],
        totals: Sequence[Array | None],
        present: NDArray[np.bool_],
        begun: Sequence[bool],
        each: Each | None = None,
        parameters: Sequence[Array] | None = None,
    ) -> None:
        """Adds the gradients of all ranks, in the order of ranks, into the totals of own pieces.

        gradients: of each tensor, flat. totals: of each piece, or None where nobody has any; they
        may be the memory of the own gradient. begun: by piece, whether they hold a sum already.
        each: called with every part that has been added up, while caches hold it. parameters: of
        each tensor, flat; then `each` has made the own ones, and all ranks get all of them, part by
        part.
        """
        own = self.transport.rank
        adding: deque[tuple[Pending, Message | None, dict[int, Any], Any]] = deque()
        spreading: deque[tuple[Pending, list[tuple[Message, Bytes]]]] = deque()

        def add() -> None:
            pending, mine, found, theirs = adding.popleft()
            self._add(pending, mine, found, gradients, totals, present, begun, each)
            if parameters is not None:
                self._pass_round(theirs, parameters, spreading)

        with self:
            rounds = zip(zip_longest(*self._gradients), zip_longest(*self._parameters), strict=True)
            for turn, (messages, theirs) in enumerate(rounds):
                sends = [
                    (rank, self._packed(messages[rank], gradients))
                    for rank in self.peers
                    if messages[rank] is not None
                ]
                if len(adding) == self._depth:
                    add()
                mine = messages[own]
                found = {} if mine is None else self._stages(mine.size, turn)
                pending = self.transport.start(sends, list(found.items()))
                adding.append((pending, mine, found, theirs))
            while adding:
                add()
            for last in spreading:
                _finish(*last, parameters or ())

    def _stages(self, size: int, turn: int) -> dict[int, Any]:
        """Where the messages of the others go."""
        found: dict[int, Any] = {}
        for rank in self.peers:
            if self._lent:
                found[rank] = Loan(size)
                continue
            key = rank, turn % self._depth
            if key not in self._staging or self._staging[key].size < size:
                self._staging[key] = np.empty(size, np.uint8)
            found[rank] = self._staging[key][:size]
        return found

    def _packed(self, message: Message, gradients: Sequence[Array | None]) -> Bytes:
        """The bytes of a message: memory of the gradient itself where it is of one part."""
        first = message.segments[0].piece
        whole = gradients[first.tensor]
        as_it_is = whole is not None and whole.dtype == self._travels[first.tensor]
        if whole is not None and as_it_is and len(message.segments) == 1:
            return whole[first.start : first.stop].view(np.uint8)
        packed = np.zeros(message.size, np.uint8)
        for _, piece, place in message.segments:
            gradient = gradients[piece.tensor]
            if gradient is not None:
                values, travels = gradient[piece.start : piece.stop], self._travels[piece.tensor]
                if values.dtype == travels:
                    packed[place] = values.view(np.uint8)
                else:
                    narrow(values, packed[place].view(travels))
        return packed

    def _add(
        self,
        pending: Pending,
        message: Message | None,
        stages: dict[int, Any],
        gradients: Sequence[Array | None],
        totals: Sequence[Array | None],
        present: NDArray[np.bool_],
        begun: Sequence[bool],
        each: Each | None,
    ) -> None:
        pending.wait()
        loans = [stage for stage in stages.values() if isinstance(stage, Loan)]
        found = {
            rank: stage.memory if isinstance(stage, Loan) else stage
            for rank, stage in stages.items()
        }
        for number, piece, place in message.segments if message is not None else []:
            total = totals[number]
            if total is None:
                continue
            at = self.pieces[number].start
            terms = [
                self._term(rank, piece, place, found, gradients)
                for rank in np.flatnonzero(present[:, piece.tensor]).tolist()
            ]
            out = total[piece.start - at : piece.stop - at]
            if self._widened[piece.tensor]:
                for i, term in enumerate(terms):
                    widen(term, out, begun[number] or i > 0)
            else:
                _sum_in_order([out, *terms] if begun[number] else terms, out)
            if each is not None:
                each(number, piece, out)
        for loan in loans:
            loan.release()

    def _term(
        self,
        rank: int,
        piece: Piece,
        place: slice,
        found: dict[int, Bytes],
        gradients: Sequence[Array | None],
    ) -> Array:
        travels = self._travels[piece.tensor]
        if rank != self.transport.rank:
            return found[rank][place].view(travels)
        gradient: Any = gradients[piece.tensor]
        own: Array = gradient[piece.start : piece.stop]
        if own.dtype == travels:
            return own
        # Rounded like the others', so that the sum does not know whose shard it is.
        rounded = np.empty(own.size, travels)
        narrow(own, rounded)
        return rounded

    def sum_in_order(self, own: NDArray[np.float64], counts: Sequence[int]) -> float:
        """The sum of the doubles of all ranks, one after the other; counts: how many each has."""
        with self:
            found = gather_equal(
                self.transport, own.view(np.uint8), [8 * int(count) for count in counts]
            )
        together = np.concatenate([np.zeros(1), *(each.view(np.float64) for each in found)])
        # Not np.sum, which adds in pairs.
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.add.accumulate(together)[-1])

    # Parameters

    def spread(
        self,
        parameters: Sequence[Array],
        totals: Sequence[Array | None] = (),
        each: Each | None = None,
    ) -> None:
        """Gives every rank the pieces of all others; parameters: each tensor, flat.

        totals, each: as for `reduce`; called with every part of the own pieces that has a total,
        before it is sent.
        """
        with self:
            spreading: deque[tuple[Pending, list[tuple[Message, Bytes]]]] = deque()
            for messages in zip_longest(*self._parameters):
                mine = messages[self.transport.rank]
                if each is not None and mine is not None:
                    for number, piece, _ in mine.segments:
                        total, at = totals[number], self.pieces[number].start
                        if total is not None:
                            each(number, piece, total[piece.start - at : piece.stop - at])
                self._pass_round(messages, parameters, spreading)
            for last in spreading:
                _finish(*last, parameters)

    def _pass_round(
        self,
        messages: Sequence[Message | None],
        parameters: Sequence[Array],
        spreading: deque[tuple[Pending, list[tuple[Message, Bytes]]]],
    ) -> None:
        """Starts the exchange of a message of every rank."""
        if len(spreading) == self._depth:
            _finish(*spreading.popleft(), parameters)
        mine = messages[self.transport.rank]
        sends: list[Parcel] = []
        if mine is not None:
            packed = _joined(mine, parameters)
            sends = [(rank, packed) for rank in self.peers]
        receives, copies = self._places(messages, parameters)
        spreading.append((self.transport.start(sends, receives), copies))

    def _places(
        self, messages: Sequence[Message | None], parameters: Sequence[Array]
    ) -> tuple[list[Parcel], list[tuple[Message, Bytes]]]:
        """Where messages go: a parameter itself, or memory from which parts are then copied."""
        receives: list[Parcel] = []
        copies: list[tuple[Message, Bytes]] = []
        for rank in self.peers:
            message = messages[rank]
            if message is None:
                continue
            if len(message.segments) == 1:
                receives.append((rank, _joined(message, parameters)))
                continue
            memory = np.empty(message.size, np.uint8)
            receives.append((rank, memory))
            copies.append((message, memory))
        return receives, copies


class Squares:
    """The sums of squares of a shard's blocks, taken while gradients are added up."""

    def __init__(self, exchange: Exchange, totals: Sequence[Array | None]) -> None:
        self._exchange = exchange
        self._sums = [np.zeros(0 if t is None else -(-t.size // SUM_BLOCK)) for t in totals]

    def add(self, number: int, part: Piece, total: Array) -> None:
        """Takes a part; see `Each`."""
        first = (part.start - self._exchange.pieces[number].start) // SUM_BLOCK
        found = block_sums(total)
        self._sums[number][first : first + found.size] = found

    def add_all(self, totals: Sequence[Array | None]) -> None:
        """Takes all of them."""
        for number, (piece, total) in enumerate(zip(self._exchange.pieces, totals, strict=True)):
            if total is not None:
                self.add(number, piece, total)

    def norm(self, present: Sequence[bool] | NDArray[np.bool_]) -> float:
        """The L2 norm over all ranks: sums of blocks, added up as those of one process are.

        present: by tensor, whether a rank has a gradient.
        """
        counts = [
            sum(piece.blocks for piece in shard if present[piece.tensor])
            for shard in self._exchange.shards
        ]
        together = np.concatenate([np.zeros(0), *self._sums])
        return math.sqrt(self._exchange.sum_in_order(together, counts))


def _parts(parcels: Sequence[Parcel], limit: int) -> Iterator[list[Parcel]]:
    most = max((memory.size for _, memory in parcels), default=0)
    for start in range(0, most, limit):
        parts = [(rank, memory[start : start + limit]) for rank, memory in parcels]
        yield [(rank, part) for rank, part in parts if part.size]


def _message(held: Sequence[tuple[int, Piece]], itemsizes: Sequence[int]) -> Message:
    at, segments = 0, []
    for number, piece in held:
        size = piece.size * itemsizes[piece.tensor]
        segments.append(Segment(number, piece, slice(at, at + size)))
        at += -(-size // 8) * 8  # so that doubles are aligned
    return Message(segments, segments[-1].place.stop)


def _joined(message: Message, parameters: Sequence[Array]) -> Bytes:
    """The bytes of a message: the parameter's own memory where it is of one part."""
    parts = [
        parameters[piece.tensor][piece.start : piece.stop].view(np.uint8)
        for _, piece, _ in message.segments
    ]
    if len(parts) == 1:
        return parts[0]
    packed = np.zeros(message.size, np.uint8)
    for (_, _, place), part in zip(message.segments, parts, strict=True):
        packed[place] = part
    return packed


def _finish(pending: Any, copies: list[tuple[Message, Bytes]], parameters: Sequence[Array]) -> None:
    pending.wait()
    for message, memory in copies:
        for _, piece, place in message.segments:
            to = parameters[piece.tensor][piece.start : piece.stop].view(np.uint8)
            to[...] = memory[place]


def _sum_in_order(terms: list[Array], out: Array) -> None:
    """((a + b) + c) + ... into `out`, which may be the memory of one of them."""
    if len(terms) == 1 and not np.may_share_memory(terms[0], out):
        np.copyto(out, terms[0])
    last = max((i for i, term in enumerate(terms) if np.may_share_memory(term, out)), default=0)
    total = terms[0]
    with np.errstate(over="ignore", invalid="ignore"):
        for i, term in enumerate(terms[1:], 1):
            # Until `out` has been read, into the first term: a message, which nobody needs then.
            total = np.add(total, term, out=out if i >= last else terms[0])
