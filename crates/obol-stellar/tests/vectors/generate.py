"""Writes escrows.json: every transaction of some escrows, built by the official Python SDK (pip install stellar-sdk==16.1.1).

Run in this folder. The Rust tests build the same transactions from the same terms and compare the bytes.
"""

import hashlib
import hmac
import json
import struct

from stellar_sdk import (
    Asset,
    FeeBumpTransaction,
    FeeBumpTransactionEnvelope,
    Keypair,
    LedgerBounds,
    Network,
    Preconditions,
    Signer,
    TimeBounds,
    Transaction,
    TransactionEnvelope,
)
from stellar_sdk.operation import AccountMerge, ChangeTrust, CreateAccount, Payment, SetOptions


def keypair(n):
    return Keypair.from_raw_ed25519_seed(bytes([n]) * 32)


def hkdf(secret, info):
    prk = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def amount(stroops):
    return f"{stroops // 10**7}.{stroops % 10**7:07d}"


ANY_LOWER = dict(min_sequence_number=0)


def vector(passphrase, code, n, s0_ledger, expiry, min_deposit, deposit, claims):
    network_id = Network(passphrase).network_id()
    issuer, payee, funder, e, heir = (keypair(n + i) for i in range(5))
    secret = bytes([n + 100]) * 32
    identity = bytes([n + 101]) * 32
    asset = Asset(code, issuer.public_key)
    s0 = s0_ledger << 32
    info = (
        b"obol-escrow-1"
        + network_id
        + code.encode().ljust(12, b"\0")
        + issuer.raw_public_key()
        + identity
        + payee.raw_public_key()
        + e.raw_public_key()
        + struct.pack(">QQq", s0, expiry, min_deposit)
    )
    r = Keypair.from_raw_ed25519_seed(hkdf(secret, info))

    def release():
        return SetOptions(
            low_threshold=1, med_threshold=1, high_threshold=1, signer=Signer.ed25519_public_key(r.public_key, 0)
        )

    def envelope(source, sequence, fee, operations, preconditions, signers):
        tx = Transaction(source, sequence, fee, operations, preconditions=preconditions)
        env = TransactionEnvelope(tx, passphrase)
        for signer in signers:
            env.sign(signer)
        return env

    def bumped(inner, fee):
        env = FeeBumpTransactionEnvelope(FeeBumpTransaction(payee, fee, inner), passphrase)
        env.sign(payee)
        return env

    def out(env):
        return {"hash": env.hash_hex(), "xdr": env.to_xdr()}

    refund = envelope(
        e, s0 + 2**31, 0, [release()], Preconditions(TimeBounds(expiry, 0), **ANY_LOWER), [e, r]
    )
    opening = envelope(
        funder,
        77,
        400,
        [
            CreateAccount(e.public_key, "2"),
            ChangeTrust(asset, source=e.public_key),
            SetOptions(
                master_weight=1,
                low_threshold=2,
                med_threshold=2,
                high_threshold=2,
                signer=Signer.ed25519_public_key(r.public_key, 1),
                source=e.public_key,
            ),
            Payment(e.public_key, asset, amount(deposit)),
        ],
        Preconditions(ledger_bounds=LedgerBounds(0, s0_ledger)),
        [funder, e],
    )
    claim_vectors = []
    for k, cumulative in claims:
        claim = envelope(
            e,
            s0 + k,
            0,
            [Payment(payee.public_key, asset, amount(cumulative)), release()],
            Preconditions(**ANY_LOWER),
            [e],
        )
        by_payer = claim.signatures[0].signature.hex()
        claim.sign(r)
        claim_vectors.append(
            {
                "k": k,
                "cumulative": cumulative,
                "hash": claim.hash_hex(),
                "by_payer": by_payer,
                "flush": out(bumped(claim, 300)),
            }
        )
    final_k = claims[-1][0]

    def owner(kind, k):
        message = b"obol-owner-1" + network_id + identity + e.raw_public_key() + struct.pack(">BI", kind, k)
        return e.sign(message).hex()

    last = s0 + final_k
    until = Preconditions(TimeBounds(0, expiry + 300))
    sweep = envelope(e, last + 1, 100, [Payment(heir.public_key, asset, amount(7))], until, [e])
    merge = envelope(e, last + 2, 200, [ChangeTrust(asset, "0"), AccountMerge(heir.public_key)], until, [e])
    return {
        "passphrase": passphrase,
        "code": code,
        "seeds_from": n,
        "s0": s0,
        "expiry": expiry,
        "min_deposit": min_deposit,
        "deposit": deposit,
        "r": r.public_key,
        "refund": out(refund) | {"by_payee": refund.signatures[1].signature.hex()},
        "opening": out(opening),
        "claims": claim_vectors,
        "sweep": out(sweep),
        "merge": out(merge),
        "owner": {"books": owner(1, 0), "final_k": final_k, "close": owner(2, final_k)},
    }


VECTORS = [
    vector("Standalone Network ; February 2017", "OBOL", 1, 1060, 1_800_000_000, 100_000, 10**10, [(1, 5), (7, 10**9)]),
    vector("Obol Test Network ; 0011223344556677", "X", 11, 61, 1_795_000_001, 1, 1, [(2, 1)]),
    vector(
        "Public Global Stellar Network ; September 2015",
        "OBOLTESTCOIN",
        21,
        63_800_060,
        2**33,
        2**40,
        2**63 - 1,
        [(1, 1), (2**31 - 1, 2**63 - 1)],
    ),
]

with open("escrows.json", "w") as f:
    json.dump(VECTORS, f, indent=1)
    f.write("\n")
