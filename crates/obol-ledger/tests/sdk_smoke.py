"""The official Python SDK against the embedded ledger: python3 sdk_smoke.py URL

Exits 77 when stellar-sdk is not installed."""

import sys
import time

try:
    from stellar_sdk import (
        Asset,
        Keypair,
        Server,
        TransactionBuilder,
        TransactionEnvelope,
        FeeBumpTransactionEnvelope,
    )
    from stellar_sdk.exceptions import BadRequestError, NotFoundError
    from stellar_sdk import xdr
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

import urllib.request


def main(url: str) -> None:
    server = Server(url)
    root = server.root().call()
    passphrase = root["network_passphrase"]
    assert root["history_latest_ledger"] >= 1

    alice, bob, issuer = Keypair.random(), Keypair.random(), Keypair.random()

    # A missing account is a proper 404.
    try:
        server.load_account(alice.public_key)
        raise AssertionError("an account that does not exist was loaded")
    except NotFoundError as error:
        assert error.status == 404, error

    # Friendbot, by POST and by GET, twice.
    for key in (alice, bob, issuer):
        with urllib.request.urlopen(f"{url}/friendbot?addr={key.public_key}") as answer:
            assert b'"successful":true' in answer.read()
    try:
        urllib.request.urlopen(f"{url}/friendbot?addr={alice.public_key}")
        raise AssertionError("an account was funded twice")
    except urllib.error.HTTPError as error:
        assert error.code == 400 and b"already funded" in error.read()

    def build(source, *operations, fee=None, signers=()):
        account = server.load_account(source.public_key)
        builder = TransactionBuilder(account, passphrase, base_fee=fee or server.fetch_base_fee())
        builder.add_time_bounds(0, int(time.time()) + 300)
        for add in operations:
            add(builder)
        tx = builder.build()
        for key in signers or (source,):
            tx.sign(key)
        return tx

    # A trust line, issuing, a payment, a memo.
    gold = Asset("OBOL", issuer.public_key)
    server.submit_transaction(build(alice, lambda b: b.append_change_trust_op(gold, "1000")))
    server.submit_transaction(build(bob, lambda b: b.append_change_trust_op(gold)))
    server.submit_transaction(build(issuer, lambda b: b.append_payment_op(alice.public_key, gold, "100.5")))
    paid = server.submit_transaction(
        build(alice, lambda b: b.append_payment_op(bob.public_key, gold, "0.0000001").add_text_memo("a stroop"))
    )
    assert paid["successful"] and paid["memo"] == "a stroop" and paid["fee_charged"] == "100", paid
    result = xdr.TransactionResult.from_xdr(paid["result_xdr"])
    assert result.result.code == xdr.TransactionResultCode.txSUCCESS
    xdr.TransactionMeta.from_xdr(paid["result_meta_xdr"])
    xdr.LedgerEntryChanges.from_xdr(paid["fee_meta_xdr"])
    xdr.LedgerHeader.from_xdr(server.ledgers().ledger(paid["ledger"]).call()["header_xdr"])

    account = server.accounts().account_id(bob.public_key).call()
    balances = {b.get("asset_code", "XLM"): b["balance"] for b in account["balances"]}
    assert balances["OBOL"] == "0.0000001", balances
    assert account["data"] == {} and account["thresholds"]["low_threshold"] == 0

    # A rejection and a failure, with their codes.
    stale = build(alice, lambda b: b.append_payment_op(bob.public_key, Asset.native(), "1"))
    server.submit_transaction(stale)
    again = server.submit_transaction(stale)
    assert again["hash"] == stale.hash_hex(), "what is in a ledger is answered from there"
    late = TransactionBuilder(server.load_account(alice.public_key), passphrase, base_fee=100)
    late.add_time_bounds(0, 1).append_bump_sequence_op(1)
    late = late.build()
    late.sign(alice)
    try:
        server.submit_transaction(late)
        raise AssertionError("an expired transaction was accepted")
    except BadRequestError as error:
        assert error.extras["result_codes"] == {"transaction": "tx_too_late"}, error.extras
    try:
        server.submit_transaction(build(alice, lambda b: b.append_payment_op(bob.public_key, gold, "1000")))
        raise AssertionError("more was paid than there was")
    except BadRequestError as error:
        assert error.extras["result_codes"] == {"transaction": "tx_failed", "operations": ["op_underfunded"]}, error.extras

    # A fee bump around an inner transaction of fee 0, found under both hashes.
    inner = build(alice, lambda b: b.append_payment_op(bob.public_key, gold, "1"), fee=100)
    inner.transaction.fee = 0
    inner = TransactionEnvelope(inner.transaction, passphrase)
    inner.sign(alice)
    bump = TransactionBuilder.build_fee_bump_transaction(bob, 200, inner, passphrase)
    assert isinstance(bump, FeeBumpTransactionEnvelope)
    bump.sign(bob)
    bumped = server.submit_transaction(bump)
    assert bumped["fee_account"] == bob.public_key and bumped["source_account"] == alice.public_key
    assert bumped["inner_transaction"]["hash"] == inner.hash_hex()
    assert bumped["inner_transaction"]["max_fee"] == "0" and bumped["max_fee"] == "400"
    assert server.transactions().transaction(inner.hash_hex()).call()["ledger"] == bumped["ledger"]
    assert server.transactions().transaction(bump.hash_hex()).call()["hash"] == bump.hash_hex()

    # Asynchronous submission.
    pending = server.submit_transaction_async(build(bob, lambda b: b.append_manage_data_op("note", b"hello")))
    assert pending["tx_status"] == "PENDING", pending
    for _ in range(600):
        try:
            server.transactions().transaction(pending["hash"]).call()
            break
        except NotFoundError:
            time.sleep(0.1)
    assert server.load_account(bob.public_key).raw_data["data"] == {"note": "aGVsbG8="}

    # Paging, forward and back, and the lists.
    first = server.transactions().limit(2).order(desc=False).call()
    ids = [r["id"] for r in first["_embedded"]["records"]]
    following = server.transactions().limit(2).cursor(first["_embedded"]["records"][-1]["paging_token"]).call()
    assert len(ids) == 2 and not set(ids) & {r["id"] for r in following["_embedded"]["records"]}
    builder = server.payments().for_account(bob.public_key).limit(1).order(desc=False)
    page, seen = builder.call(), []
    while page["_embedded"]["records"]:
        seen += page["_embedded"]["records"]
        page = builder.next()
    assert [p["type"] for p in seen] == ["create_account", "payment", "payment", "payment"], seen
    assert seen[1]["amount"] == "0.0000001" and seen[1]["asset_code"] == "OBOL" and seen[1]["from"] == alice.public_key
    assert len(server.operations().for_transaction(paid["hash"]).call()["_embedded"]["records"]) == 1
    effects = server.effects().for_account(bob.public_key).limit(200).call()["_embedded"]["records"]
    assert {"account_created", "trustline_created", "account_credited", "data_created"} <= {e["type"] for e in effects}
    holders = server.accounts().for_asset(gold).call()["_embedded"]["records"]
    assert {h["id"] for h in holders} == {alice.public_key, bob.public_key}
    assert [s["id"] for s in server.accounts().for_signer(alice.public_key).call()["_embedded"]["records"]] == [alice.public_key]
    asset = server.assets().for_code("OBOL").for_issuer(issuer.public_key).call()["_embedded"]["records"][0]
    assert asset["balances"]["authorized"] == "100.5000000" and asset["accounts"]["authorized"] == 2
    assert server.fee_stats().call()["last_ledger_base_fee"] == "100"
    assert server.offers().for_seller(alice.public_key).call()["_embedded"]["records"] == []

    # A stream: the payments of bob from the beginning.
    streamed = []
    for event in server.payments().for_account(bob.public_key).cursor("0").limit(2).stream():
        streamed.append(event["paging_token"])
        if len(streamed) == 4:
            break
    assert streamed == [p["paging_token"] for p in seen], streamed
    print("all of it works")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
