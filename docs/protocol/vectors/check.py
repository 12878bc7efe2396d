#!/usr/bin/env python3
"""Checks every file of test vectors in this folder against the specification (docs/protocol), with the standard library only.

It shares nothing with the Rust code: layouts, derivations, XDR of transactions and Ed25519 are its own, as the specification has them. Slow,
and fit for nothing but this. Exit code 0 when all agree.
"""

import base64
import hashlib
import hmac
import json
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKED = 0


def load(name):
    return json.loads((HERE / name).read_text())


def same(what, is_, expected):
    global CHECKED
    CHECKED += 1
    if is_ != expected:
        raise SystemExit(f"{what}:\n  is       {is_!r}\n  expected {expected!r}")


# ---- Ed25519 (RFC 8032), verified strictly ----

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def recover(y, sign):
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    square = u * pow(v, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    return P - x if x & 1 != sign else x


def add(a, b):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    e, f = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    g, h = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = f - e, h - g, h + g, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(scalar, point):
    result = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = add(result, point)
        point = add(point, point)
        scalar >>= 1
    return result


def point_of(key):
    number = int.from_bytes(key, "little")
    y, sign = number & (2**255 - 1), number >> 255
    x = recover(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def bytes_of(point):
    x, y, z, _ = point
    inverse = pow(z, P - 2, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE = (recover(BASE_Y, 0), BASE_Y, 1, recover(BASE_Y, 0) * BASE_Y % P)


def secret_scalar(seed):
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return scalar & (1 << 254) - 8 | 1 << 254, digest[32:]


def public(seed):
    return bytes_of(times(secret_scalar(seed)[0], BASE))


def hashed(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L


def sign(seed, message):
    scalar, prefix = secret_scalar(seed)
    key = public(seed)
    r = hashed(prefix, message)
    commitment = bytes_of(times(r, BASE))
    s = (r + hashed(commitment, key, message) * scalar) % L
    return commitment + s.to_bytes(32, "little")


def is_sound(key):
    point = point_of(key)
    return point is not None and bytes_of(times(8, point)) != bytes_of((0, 1, 1, 0))


def verify(key, message, signature):
    s = int.from_bytes(signature[32:], "little")
    if s >= L or not is_sound(key) or not is_sound(signature[:32]):
        return False
    left = times(s, BASE)
    right = add(point_of(signature[:32]), times(hashed(signature[:32], key, message), point_of(key)))
    return bytes_of(left) == bytes_of(right)


def hkdf(secret, info):
    pseudo = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(pseudo, info + b"\x01", hashlib.sha256).digest()


def strkey(key):
    data = bytes([6 << 3]) + key
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return base64.b32encode(data + struct.pack("<H", crc)).decode()


# ---- messages.md: layouts ----


class Refused(Exception):
    pass


class Body:
    def __init__(self, raw):
        self.rest = raw

    def take(self, length):
        if len(self.rest) < length:
            raise Refused("below-layout")
        head, self.rest = self.rest[:length], self.rest[length:]
        return head

    def number(self, length):
        return int.from_bytes(self.take(length), "big")


def u(length):
    return (lambda b: b.number(length), lambda v: v.to_bytes(length, "big"))


U64 = (lambda b: str(b.number(8)), lambda v: int(v).to_bytes(8, "big"))


def read_amount(b):
    value = b.number(8)
    if value >= 1 << 63:
        raise Refused("amount")
    return str(value)


AMOUNT = (read_amount, U64[1])


def raw(length):
    return (lambda b: b.take(length).hex(), bytes.fromhex)


LADDER = [digit * 10**power for power in range(13) for digit in (1, 2, 5)][:37]


def read_rung(b):
    rung = b.number(1)
    if rung > 36:
        raise Refused("price")
    return str(LADDER[rung])


def read_step(b):
    power = b.number(1)
    if power > 20:
        raise Refused("step")
    return str(65536 << power)


def read_fee(b):
    fee = b.number(4)
    if fee not in (0, 1_000, 10_000):
        raise Refused("fee")
    return fee


def one_of(names, what):
    def read(b):
        code = b.number(1)
        if code not in names:
            raise Refused("undefined: " + what)
        return names[code]

    back = {name: code for code, name in names.items()}
    return read, lambda v: bytes([back[v]])


def read_low(b):
    power = b.number(1)
    if not 10 <= power <= 40:
        raise Refused("undefined: low-water mark")
    return str(1 << power)


def log2(v):
    return bytes([int(v).bit_length() - 1])


RUNG = (read_rung, lambda v: bytes([LADDER.index(int(v))]))
STEP = (read_step, lambda v: bytes([(int(v) // 65536).bit_length() - 1]))
FEE = (read_fee, lambda v: v.to_bytes(4, "big"))
LOW = (read_low, log2)
KEY = raw(32)
SIGNATURE = raw(64)
REFUSAL = one_of({1: "no-funds", 2: "over-limit", 3: "failed", 4: "closing"}, "refusal code")
DECLINE = one_of({1: "not-now", 2: "other-money", 3: "outside-rules", 4: "exists", 5: "unknown"}, "decline code")
STATE = one_of({0: "unknown", 1: "open", 2: "closing"}, "escrow state")


def flag(what):
    return one_of({0: False, 1: True}, what)


def nonzero_n(b):
    n = b.number(2)
    if n == 0:
        raise Refused("undefined: payment number")
    return n


N = (nonzero_n, lambda v: v.to_bytes(2, "big"))


def record(**fields):
    def read(b):
        return {name: kind[0](b) for name, kind in fields.items()}

    def write(values):
        return b"".join(kind[1](values[name]) for name, kind in fields.items())

    return read, write


ASSET = (
    lambda b: {"code": b.take(12).rstrip(b"\0").decode(), "issuer": b.take(32).hex()},
    lambda v: v["code"].encode().ljust(12, b"\0") + bytes.fromhex(v["issuer"]),
)
RULES = record(min_deposit=AMOUNT, min_life=u(4), max_life=u(4), margin=u(4))
OFFER = record(escrow=KEY, network=KEY, asset=ASSET, s0=U64, expiry=U64, deposit=AMOUNT)
ACCEPTANCE = record(escrow=KEY, signer=KEY, payee_account=KEY, min_deposit=AMOUNT, refund=SIGNATURE)
TERMS = record(s0=U64, expiry=U64, payee_account=KEY, min_deposit=AMOUNT)
BOOKS = record(escrow=KEY, newest_k=u(4), cumulative=AMOUNT, unallocated=AMOUNT, state=STATE)
ALLOCATION = record(circuit=u(4), n=N, amount=AMOUNT)

OPENING = (
    lambda b: TERMS[0](b) if flag("opening terms")[0](b) else None,
    lambda v: b"\0" if v is None else b"\1" + TERMS[1](v),
)


def read_allocations(b):
    count = b.number(1)
    if count > 64:
        raise Refused("undefined: count of allocations")
    return [ALLOCATION[0](b) for _ in range(count)]


ALLOCATIONS = (read_allocations, lambda v: bytes([len(v)]) + b"".join(map(ALLOCATION[1], v)))
QUERY = record(escrow=KEY, owner=SIGNATURE, opening=OPENING)
CLAIM = record(escrow=KEY, k=u(4), cumulative=AMOUNT, allocation=AMOUNT, signature=SIGNATURE)


def read_pay(b):
    flags = b.number(1)
    if flags & ~7 or flags & 6 == 4:
        raise Refused("undefined: payment flags")
    pay = {"n": nonzero_n(b), "step": read_step(b), "forward": "last" if flags & 1 else read_amount(b), "claim": None}
    if flags & 2:
        pay["claim"] = CLAIM[0](b)
        pay["claim"]["opening"] = TERMS[0](b) if flags & 4 else None
    return pay


def write_pay(v):
    claim = v["claim"]
    flags = (v["forward"] == "last") | bool(claim) << 1 | bool(claim and claim["opening"]) << 2
    out = bytes([flags]) + N[1](v["n"]) + STEP[1](v["step"])
    if v["forward"] != "last":
        out += AMOUNT[1](v["forward"])
    if claim:
        out += CLAIM[1](claim) + (TERMS[1](claim["opening"]) if claim["opening"] else b"")
    return out


METERED = {"metered": U64, "paid": U64, "credit": U64}
MESSAGES = {
    52: {
        1: ("QuoteQuery", record()),
        2: ("OfferEscrow", OFFER),
        3: ("BalanceQuery", QUERY),
        4: ("Listen", record(id=u(2), low=LOW)),
        5: ("Cancel", record(id=u(2))),
        6: ("Pay", (read_pay, write_pay)),
        7: ("CloseEscrow", record(escrow=KEY, final_k=u(4), owner=SIGNATURE)),
    },
    51: {
        1: (
            "Quote",
            record(
                price=RUNG,
                forward_ppm=FEE,
                forward_ceiling=RUNG,
                max_step=STEP,
                network=KEY,
                asset=ASSET,
                rules=RULES,
                next=flag("next"),
                credit=U64,
                valid_until=U64,
            ),
        ),
        2: ("EscrowAccepted", ACCEPTANCE),
        3: ("Balance", BOOKS),
        4: ("PaymentRequest", record(id=u(2), **METERED)),
        5: ("Nothing", record(id=u(2))),
        6: ("Complete", record(n=u(2), **METERED)),
        7: ("Refused", record(n=u(2), distance=u(1), code=REFUSAL)),
        8: ("Closing", record(escrow=KEY, newest_k=u(4))),
        9: ("Declined", record(code=DECLINE)),
    },
    200: {
        1: ("LegHello", record(network=KEY, asset=ASSET, rules=RULES)),
        2: ("LegOffer", OFFER),
        3: ("LegAccepted", ACCEPTANCE),
        4: ("LegDeclined", record(escrow=KEY, code=DECLINE)),
        5: (
            "LegPay",
            record(
                escrow=KEY,
                k=u(4),
                cumulative=AMOUNT,
                signature=SIGNATURE,
                opening=OPENING,
                allocations=ALLOCATIONS,
            ),
        ),
        6: ("LegBalance", BOOKS),
        7: ("LegRefused", record(circuit=u(4), n=u(2), distance=u(1), code=REFUSAL)),
        8: ("LegClose", record(escrow=KEY, final_k=u(4))),
        9: ("LegQuery", QUERY),
        10: (
            "LegTrusted",
            record(
                account=KEY,
                max_unsettled=AMOUNT,
                k=u(4),
                cumulative=AMOUNT,
                signature=SIGNATURE,
                unallocated=AMOUNT,
                settled=AMOUNT,
            ),
        ),
        11: ("LegTrust", record(k=u(4), cumulative=AMOUNT, memo=KEY, signature=SIGNATURE, allocations=ALLOCATIONS)),
        12: ("LegPaid", record(transaction=KEY, amount=AMOUNT)),
        13: ("LegSettled", record(transaction=KEY, total=AMOUNT)),
    },
}


def decode(command, body):
    b = Body(body)
    if b.number(1) != 1:
        raise Refused("version")
    kind = b.number(1)
    if kind not in MESSAGES[command]:
        raise Refused("kind")
    name, (read, _) = MESSAGES[command][kind]
    fields = read(b)
    if b.rest:
        raise Refused("above-layout")
    return name, fields


def encode(command, name, fields):
    kind = next(k for k, (n, _) in MESSAGES[command].items() if n == name)
    return bytes([1, kind]) + MESSAGES[command][kind][1][1](fields)


def check_messages():
    seen = set()
    for m in load("messages.json")["messages"]:
        body = bytes.fromhex(m["body"])
        same(m["name"], decode(m["command"], body), (m["message"], m["fields"]))
        same(m["name"], encode(m["command"], m["message"], m["fields"]).hex(), m["body"])
        same(m["name"], (len(body), body[1]), (m["length"], m["kind"]))
        seen.add((m["command"], m["kind"]))
    same("kinds", seen, {(c, k) for c, kinds in MESSAGES.items() for k in kinds})
    for m in load("refused.json")["bodies"]:
        try:
            decode(m["command"], bytes.fromhex(m["body"]))
        except Refused as why:
            same(m["name"], str(why), m["reason"])
        else:
            raise SystemExit(f"{m['name']}: not refused")
    for c in load("framing.json")["cells"]:
        body = bytes.fromhex(c["body"])
        if c["command"] == 200:
            cell = struct.pack(">IBH", 0, 200, len(body)) + body
        else:
            cell = (struct.pack(">BHHIH", c["command"], 0, 0, 0, len(body)) + body).ljust(509, b"\0")
        same(c["name"], cell.hex(), c["cell"])


# ---- README.md, circuit.md: prices, steps, sums ----


def units(step):
    return int(step) // 65536


def fee_on(ppm, forwarded):
    return -(-ppm * forwarded // 1_000_000)


def permitted(v, carried):
    if v["sold_before"] < 2:
        return 65536
    grown = 65536
    while grown * 2 <= carried and grown < 65536 << 20:
        grown *= 2
    return min(max(grown, int(v["last"])), int(v["largest"]))


def check_steps():
    file = load("units.json")
    same("ladder", [int(n) for n in file["ladder"]], LADDER)
    same("steps", [int(n) for n in file["steps"]], [65536 << p for p in range(21)])
    for v in file["costs"]:
        cost = LADDER[v["rung"]] << v["power"]
        same("cost", v["cost"], str(cost) if cost < 1 << 63 else None)
    for v in file["fees"]:
        same("fee", v["fee"], str(fee_on(v["ppm"], int(v["forwarded"]))))

    file = load("steps.json")
    for chain in file["chains"]:
        hops = chain["hops"]
        so_far = [[0, 0] for _ in hops]
        for payment in chain["payments"]:
            forward, parts = 0, []
            for hop, sums in reversed(list(zip(hops, so_far))):
                cost = int(hop["price"]) * units(payment["step"])
                fee = fee_on(hop["forward_ppm"], sums[0] + forward) - sums[1] if forward else 0
                sums[0] += forward
                sums[1] += fee
                arrives = cost + forward + fee
                part = {"cost": cost, "forward": forward, "fee": fee, "arrives": arrives}
                parts.insert(0, {name: str(value) for name, value in part.items()})
                forward = arrives
            same("parts", payment["parts"], parts)
    for v in file["growth"]:
        same("growth", v["permitted"], str(permitted(v, int(v["carried"]))))
    for v in file["sales"]:
        metered, step = int(v["metered"]), int(v["step"])
        payments = min(514 * (20 + 6 * v["sold_before"]), metered // 8)
        sold = (
            step <= permitted(v, metered + metered // 8 + 65536)
            and int(v["unused"]) <= step + 514 * 1_000 + payments
            and int(v["forward"]) <= int(v["forward_ceiling"]) * units(step)
        )
        same(f"sale {v}", v["sold"], sold)
    for v in file["low_water"]:
        step = int(v["step"])
        ahead = 2 * int(v["rate"]) * int(v["payment_ms"]) // 1_000
        same("low water", v["low"], str(min(step, max(step // 4, ahead))))
    for v in file["meters"]:
        cells = sum(-(-int(n) // 498) for n in v["lengths"])
        believable = 514 * (cells + cells // 10 + 64 + 1_000) + 514 * (20 + 6 * v["steps_bought"])
        same("meter", (v["floor"], v["believable"]), (str(514 * cells), str(believable)))
    for v in file["claim_numbers"]:
        seen, newest, outcomes = set(), 0, []
        for k in v["k"]:
            if k == 0 or k >= 1 << 31 or k > newest + 1_024:
                outcomes.append("out-of-range")
            elif k in seen or k <= newest - 1_024:
                outcomes.append("seen")
            else:
                outcomes.append("taken")
                seen.add(k)
                newest = max(newest, k)
        same(f"numbers {v['k']}", v["outcomes"], outcomes)


# ---- escrow.md: XDR of transactions ----


def x32(n):
    return struct.pack(">I", n)


def x64(n):
    return struct.pack(">q", n)


def maybe(value, form=x32):
    return x32(0) if value is None else x32(1) + form(value)


def account(key):
    return x32(0) + key


def xdr_asset(asset):
    code = asset["code"].encode()
    width = 4 if len(code) <= 4 else 12
    return x32(1 if width == 4 else 2) + code.ljust(width, b"\0") + account(bytes.fromhex(asset["issuer"]))


def operation(body, source=None):
    return maybe(source, account) + body


def create_account(to, lumens):
    return x32(0) + account(to) + x64(lumens)


def payment(to, asset, amount):
    return x32(1) + account(to) + xdr_asset(asset) + x64(amount)


def set_options(master=None, thresholds=None, signer=None):
    r = maybe(signer, lambda s: account(s[0]) + x32(s[1]))
    return x32(5) + 3 * x32(0) + maybe(master) + 3 * maybe(thresholds) + x32(0) + r


def change_trust(asset, limit):
    return x32(6) + xdr_asset(asset) + x64(limit)


def merge(into):
    return x32(8) + account(into)


def v2(times_=None, before_ledger=None, any_lower=False):
    bounds = maybe(times_, lambda t: struct.pack(">QQ", *t)) + maybe(before_ledger, lambda n: x32(0) + x32(n))
    return x32(2) + bounds + (x32(1) + x64(0) if any_lower else x32(0)) + struct.pack(">QII", 0, 0, 0)


def time_bounds(first, last):
    return x32(1) + struct.pack(">QQ", first, last)


def transaction(source, fee, sequence, conditions, operations, memo=x32(0)):
    body = account(source) + x32(fee) + x64(sequence) + conditions + memo
    return body + x32(len(operations)) + b"".join(operations) + x32(0)


def payload(network, tx):
    return network + x32(2) + tx


def tx_hash(network, tx):
    return hashlib.sha256(payload(network, tx)).digest()


def signatures(pairs):
    return x32(len(pairs)) + b"".join(key[-4:] + x32(64) + signature for key, signature in pairs)


def check_envelope(what, v, envelope, digest):
    same(what, base64.b64decode(v["envelope"]).hex(), envelope.hex())
    same(what, v["hash"], digest.hex())


def check_signed(what, v, network, tx, seeds):
    """The transaction, signed by these seeds in this order."""
    digest = tx_hash(network, tx)
    pairs = [(public(seed), sign(seed, digest)) for seed in seeds]
    check_envelope(what, v, x32(2) + tx + signatures(pairs), digest)
    return tx + signatures(pairs)


def check_bump(what, v, network, signed, fee, seed):
    bump = account(public(seed)) + x64(fee) + x32(2) + signed + x32(0)
    digest = hashlib.sha256(network + x32(5) + bump).digest()
    check_envelope(what, v, x32(5) + bump + signatures([(public(seed), sign(seed, digest))]), digest)


def terms_bytes(t):
    parts = [bytes.fromhex(t["network"]), ASSET[1](t["asset"])]
    parts += [bytes.fromhex(t[name]) for name in ("payee", "payee_account", "escrow")]
    return b"".join(parts) + struct.pack(">QQQ", int(t["s0"]), int(t["expiry"]), int(t["min_deposit"]))


def owner_signs(t, kind, final_k):
    named = b"".join(bytes.fromhex(t[name]) for name in ("network", "payee", "escrow"))
    return b"obol-owner-1" + named + bytes([kind]) + x32(final_k)


def check_escrow(v):
    given, t = v["input"], v["terms"]
    name = given["name"]
    seed = {who: bytes.fromhex(s) for who, s in given["seeds"].items()}
    network = hashlib.sha256(given["passphrase"].encode()).digest()
    e = hkdf(bytes.fromhex(given["payer_secret"]), b"obol-payer-1" + network + bytes.fromhex(given["nonce"]))
    same(name, v["escrow"]["seed"], e.hex())
    e_key, payee, funder, heir = public(e), *(public(seed[who]) for who in ("payee", "funder", "heir"))
    same(name, v["escrow"]["account"], strkey(e_key))
    expected = {
        "network": network.hex(),
        "asset": {"code": given["asset_code"], "issuer": public(seed["issuer"]).hex()},
        "payee": given["relay_identity"],
        "payee_account": payee.hex(),
        "escrow": e_key.hex(),
        "s0": given["s0"],
        "expiry": given["expiry"],
        "min_deposit": given["min_deposit"],
    }
    same(name, {k: x for k, x in t.items() if k != "bytes"}, expected)
    same(name, terms_bytes(t).hex(), t["bytes"])

    info = b"obol-escrow-1" + terms_bytes(t)
    r = hkdf(bytes.fromhex(given["escrow_secret"]), info)
    signer = {"info": info.hex(), "seed": r.hex(), "key": public(r).hex(), "account": strkey(public(r))}
    same(name, v["signer"], signer)

    asset, s0, expiry, deposit = t["asset"], int(t["s0"]), int(t["expiry"]), int(given["deposit"])
    release = operation(set_options(thresholds=1, signer=(public(r), 0)))
    opening = transaction(
        funder,
        int(v["opening"]["fee"]),
        int(given["funder_sequence"]),
        v2(before_ledger=s0 >> 32),
        [
            operation(create_account(e_key, 4 * int(given["base_reserve"]))),
            operation(change_trust(asset, (1 << 63) - 1), e_key),
            operation(set_options(1, 2, (public(r), 1)), e_key),
            operation(payment(e_key, asset, deposit)),
        ],
    )
    same(name, v["opening"]["before_ledger"], s0 >> 32)
    check_signed(name, v["opening"]["transaction"], network, opening, [seed["funder"], e])

    refund = transaction(e_key, 0, s0 + (1 << 31), v2((expiry, 0), any_lower=True), [release])
    digest = tx_hash(network, refund)
    said = v["refund"]
    same(name, (said["sequence"], said["hash"]), (str(s0 + (1 << 31)), digest.hex()))
    same(name, said["payload"], payload(network, refund).hex())
    same(name, said["by_payee"], sign(r, digest).hex())
    signed = check_signed(name, said["signed"], network, refund, [e, r])
    check_bump(name, said["bump"]["transaction"], network, signed, int(said["bump"]["fee"]), seed["funder"])

    for claim in v["claims"]:
        k, cumulative = claim["k"], int(claim["cumulative"])
        pays = operation(payment(payee, asset, cumulative))
        tx = transaction(e_key, 0, s0 + k, v2(any_lower=True), [pays, release])
        digest = tx_hash(network, tx)
        same(name, (claim["sequence"], claim["hash"]), (str(s0 + k), digest.hex()))
        same(name, claim["payload"], payload(network, tx).hex())
        same(name, claim["signature"], sign(e, digest).hex())
        if not verify(e_key, digest, bytes.fromhex(claim["signature"])):
            raise SystemExit(f"{name}: claim {k} does not verify")
        signed = check_signed(name, claim["countersigned"], network, tx, [e, r])
        check_bump(name, claim["flush"]["transaction"], network, signed, int(claim["flush"]["fee"]), seed["payee"])

    said = v["sweep"]
    bounds = time_bounds(0, int(said["until_time"]))
    sweep = transaction(
        e_key, 100, int(said["sequence"]), bounds, [operation(payment(heir, asset, int(said["amount"])))]
    )
    check_signed(name, said["transaction"], network, sweep, [e])
    said = v["merge"]
    ends = [operation(change_trust(asset, 0)), operation(merge(heir))]
    check_signed(name, said["transaction"], network, transaction(e_key, 200, int(said["sequence"]), bounds, ends), [e])

    owner = v["owner"]
    for kind, final_k, said in [(1, 0, owner["books"]), (2, owner["close"]["final_k"], owner["close"]["asked"])]:
        message = owner_signs(t, kind, final_k)
        same(name, (said["signed"], said["signature"]), (message.hex(), sign(e, message).hex()))

    # The messages say the same terms and signatures.
    body = {m: bytes.fromhex(raw_) for m, raw_ in v["messages"].items()}
    said = decode(51, body["EscrowAccepted"])[1]
    accepted = (t["escrow"], public(r).hex(), t["payee_account"], t["min_deposit"], v["refund"]["by_payee"])
    same(name, tuple(said.values()), accepted)
    same(name, decode(200, body["LegAccepted"])[1], said)
    offer = decode(52, body["OfferEscrow"])[1]
    same(name, offer, {x: t[x] for x in ("escrow", "network", "asset", "s0", "expiry")} | {"deposit": given["deposit"]})
    same(name, decode(200, body["LegOffer"])[1], offer)
    for m in ("Pay 1", "Pay 2"):
        claim = decode(52, body[m])[1]["claim"]
        pays = operation(payment(payee, asset, int(claim["cumulative"])))
        tx = transaction(e_key, 0, s0 + claim["k"], v2(any_lower=True), [pays, release])
        same(name, claim["signature"], sign(e, tx_hash(network, tx)).hex())
    query = decode(52, body["BalanceQuery"])[1]
    same(name, query["owner"], owner["books"]["signature"])
    same(name, query["opening"], {x: t[x] for x in ("s0", "expiry", "payee_account", "min_deposit")})
    same(name, decode(200, body["LegQuery"])[1], query)
    close = decode(52, body["CloseEscrow"])[1]
    expected = (owner["close"]["final_k"], owner["close"]["asked"]["signature"])
    same(name, (close["final_k"], close["owner"]), expected)


def terms_fault(raw_):
    b = Body(raw_)
    b.take(32)
    code, issuer = b.take(12), b.take(32)
    b.take(32)
    payee_account, e, s0, expiry = b.take(32), b.take(32), b.number(8), b.number(8)
    letters = code.rstrip(b"\0")
    if not letters or not letters.isalnum() or not letters.isascii():
        return "asset"
    if s0 & 0xFFFFFFFF or not 1 <= s0 >> 32 < 1 << 31:
        return "s0"
    if not 0 < expiry < 1 << 63:
        return "expiry"
    if len({payee_account, e, issuer}) < 3:
        return "same-keys"
    return None if is_sound(e) else "bad-key"


def check_escrows():
    file = load("escrow.json")
    for v in file["escrows"]:
        check_escrow(v)
        same("sound terms", terms_fault(bytes.fromhex(v["terms"]["bytes"])), None)
    for v in file["refused_terms"]:
        same(v["name"], terms_fault(bytes.fromhex(v["bytes"])), v["reason"])
    for v in load("ownership.json")["messages"]:
        kind = {"books": 1, "close": 2}[v["asks"]]
        same("ownership", v["signed"], owner_signs(v, kind, v["final_k"]).hex())


# ---- trust.md ----


def check_trust():
    file = load("trust.json")
    network = hashlib.sha256(file["passphrase"].encode()).digest()
    same("network", file["network"], network.hex())
    seed = bytes.fromhex(file["account"]["seed"])
    a = public(seed)
    same("account", file["account"]["key"], a.hex())
    memo = hkdf(bytes.fromhex(file["payer_secret"]), b"obol-trust-memo-1" + network)
    same("memo", file["memo"], memo.hex())
    named = b"".join(bytes.fromhex(file[who]) for who in ("payer", "payee"))
    for v in file["statements"]:
        numbers = x32(v["k"]) + x64(int(v["cumulative"]))
        signed = b"obol-trust-1" + network + ASSET[1](file["asset"]) + named + a + memo + numbers
        same("statement", (len(signed), v["signed"]), (228, signed.hex()))
        same("statement", v["signature"], sign(seed, signed).hex())
        name, said = decode(200, bytes.fromhex(v["message"]))
        expected = ("LegTrust", v["k"], v["cumulative"], file["memo"], v["signature"])
        same("statement", (name, said["k"], said["cumulative"], said["memo"], said["signature"]), expected)
    v = file["settlement"]
    pays = [operation(payment(bytes.fromhex(p["to"]), file["asset"], int(p["amount"]))) for p in v["payments"]]
    tx = transaction(a, 200, 88, time_bounds(1, 1_800_000_300), pays, x32(3) + memo)
    check_signed("settlement", v["transaction"], network, tx, [seed])
    _, announced = decode(200, bytes.fromhex(v["announced"]))
    to_payee = sum(int(p["amount"]) for p in v["payments"] if p["to"] == v["payee_account"])
    same("announced", announced, {"transaction": tx_hash(network, tx).hex(), "amount": str(to_payee)})
    # Wrapped by somebody else it has another hash and is the same settlement.
    wrapped = base64.b64decode(v["wrapped_by_somebody"]["envelope"])
    same("wrapped", tx in wrapped and v["wrapped_by_somebody"]["hash"] != v["transaction"]["hash"], True)


# ---- the dialogues: what can be told from the text alone ----


def refund_of(t, r):
    release = operation(set_options(thresholds=1, signer=(r, 0)))
    conditions = v2((int(t["expiry"]), 0), any_lower=True)
    return transaction(bytes.fromhex(t["escrow"]), 0, int(t["s0"]) + (1 << 31), conditions, [release])


def check_onward(note, said, t, r):
    """What the relay says on the escrow that it pays the next hop by: signed by that escrow's key."""
    e, network = bytes.fromhex(t["escrow"]), bytes.fromhex(t["network"])
    if "allocations" in said:
        release = operation(set_options(thresholds=1, signer=(r, 0)))
        pays = operation(payment(bytes.fromhex(t["payee_account"]), t["asset"], int(said["cumulative"])))
        tx = transaction(e, 0, int(t["s0"]) + said["k"], v2(any_lower=True), [pays, release])
        same(note, verify(e, tx_hash(network, tx), bytes.fromhex(said["signature"])), True)
    else:
        same(note, verify(e, owner_signs(t, 1, 0), bytes.fromhex(said["owner"])), True)
        same(note, said["opening"], {x: t[x] for x in ("s0", "expiry", "payee_account", "min_deposit")})


def check_incoming(note, relay, known, name, said):
    """What is signed by the other end is signed by it, where the note does not say otherwise."""
    if name == "LegTrust":
        named = [relay["before"], relay["identity"], relay["before_settles_from"], said["memo"]]
        settings = bytes.fromhex(relay["network"]) + ASSET[1](relay["asset"])
        numbers = x32(said["k"]) + x64(int(said["cumulative"]))
        statement = b"obol-trust-1" + settings + bytes.fromhex("".join(named)) + numbers
        by = bytes.fromhex(relay["before_settles_from"])
        same(note, verify(by, statement, bytes.fromhex(said["signature"])), "did not sign" not in note)
        return
    claim = said.get("claim") or (said if name == "LegPay" else None)
    asked = said if name in ("BalanceQuery", "LegQuery", "CloseEscrow") else None
    if not claim and not asked:
        return
    opening = (claim or asked).get("opening")
    e = (claim or asked)["escrow"]
    if opening:
        settings = {"network": relay["network"], "asset": relay["asset"], "payee": relay["identity"], "escrow": e}
        known[e] = settings | opening
    t = known[e]
    r = public(hkdf(bytes.fromhex(relay["escrow_secret"]), b"obol-escrow-1" + terms_bytes(t)))
    if claim:
        release = operation(set_options(thresholds=1, signer=(r, 0)))
        pays = operation(payment(bytes.fromhex(t["payee_account"]), t["asset"], int(claim["cumulative"])))
        tx = transaction(bytes.fromhex(e), 0, int(t["s0"]) + claim["k"], v2(any_lower=True), [pays, release])
        message, signature = tx_hash(bytes.fromhex(t["network"]), tx), claim["signature"]
    else:
        kind, final_k = (2, asked["final_k"]) if name == "CloseEscrow" else (1, 0)
        message, signature = owner_signs(t, kind, final_k), asked["owner"]
    same(note, verify(bytes.fromhex(e), message, bytes.fromhex(signature)), "did not sign" not in note)


def check_dialogue():
    file = load("dialogue.json")
    relay = file["relay"]
    for dialogue in file["dialogues"]:
        stored, bought, onward, known = {}, 0, {}, {}
        for entry in dialogue["entries"]:
            outcome = entry["outcome"]
            replies = [(r["command"], *decode(r["command"], bytes.fromhex(r["body"]))) for r in outcome["replies"]]
            for _, what, answer in replies:
                if what == "LegOffer":
                    onward = answer
                if what in ("LegPay", "LegQuery"):
                    check_onward(entry["note"], answer, *accepted)
            if outcome["ends"] or entry["command"] == 0 or not entry["body"]:
                bought += int(outcome["granted"])
                continue
            try:
                name, said = decode(entry["command"], bytes.fromhex(entry["body"]))
            except Refused:
                same(entry["note"], outcome["ends"], "circuit")
                continue
            check_incoming(entry["note"], relay, known, name, said)
            if name == "LegAccepted":
                t = onward | {"payee": relay["next"]} | {x: said[x] for x in ("payee_account", "min_deposit")}
                r = bytes.fromhex(said["signer"])
                digest = tx_hash(bytes.fromhex(t["network"]), refund_of(t, r))
                same(entry["note"], verify(r, digest, bytes.fromhex(said["refund"])), True)
                accepted = (t, r)
            if name == "OfferEscrow" and replies[0][1] == "EscrowAccepted":
                answer = replies[0][2]
                t = said | {"payee": relay["identity"]} | {x: answer[x] for x in ("payee_account", "min_deposit")}
                r = hkdf(bytes.fromhex(relay["escrow_secret"]), b"obol-escrow-1" + terms_bytes(t))
                same("r", answer["signer"], public(r).hex())
                digest = tx_hash(bytes.fromhex(t["network"]), refund_of(t, public(r)))
                same("refund", answer["refund"], sign(r, digest).hex())
            bought += int(outcome["granted"])
            for _, what, answer in replies:
                if what in ("Complete", "PaymentRequest") and name in ("Pay", "Listen"):
                    if what == "Complete" and answer["n"] in stored:
                        # The stored answer, as it was.
                        same(entry["note"], answer, stored[answer["n"]])
                        continue
                    metered = int(entry["metered"])
                    credit = max(0, bought + int(relay["initial_credit"]) * (dialogue["hop"] == 1) - metered)
                    if dialogue["hop"] == 1:
                        expected = (str(metered), str(bought), str(credit))
                        same(entry["note"], (answer["metered"], answer["paid"], answer["credit"]), expected)
                    if what == "Complete":
                        stored[answer["n"]] = answer
                if what == "Refused":
                    same(entry["note"], answer["distance"] in (0, 1), True)


def main():
    # RFC 8032, 7.1, test 1: this file's Ed25519 is Ed25519.
    first = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    same("Ed25519", public(first).hex(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    check_messages()
    check_steps()
    check_escrows()
    check_trust()
    check_dialogue()
    print(f"{CHECKED} comparisons agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
