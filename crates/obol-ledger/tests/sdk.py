"""The official Python SDK against the embedded ledger: python3 sdk.py URL

Exits 77 when stellar-sdk is not installed."""

import hashlib
import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request

try:
    from stellar_sdk import (
        Account,
        Asset,
        AuthorizationFlag,
        ClaimPredicate,
        Claimant,
        FeeBumpTransactionEnvelope,
        Keypair,
        Server,
        Signer,
        SignedPayloadSigner,
        SignerKey,
        SorobanServer,
        TransactionBuilder,
        TransactionEnvelope,
        TrustLineFlags,
        xdr,
    )
    from stellar_sdk.exceptions import (
        AccountNotFoundException,
        BadRequestError,
        NotFoundError,
        SorobanRpcErrorResponse,
    )
    from stellar_sdk.operation import (
        AccountMerge,
        BeginSponsoringFutureReserves,
        BumpSequence,
        ChangeTrust,
        ClaimClaimableBalance,
        Clawback,
        CreateAccount,
        CreateClaimableBalance,
        EndSponsoringFutureReserves,
        ManageData,
        ManageSellOffer,
        Payment,
        SetOptions,
        SetTrustLineFlags,
    )
    from stellar_sdk.soroban_rpc import GetTransactionStatus, SendTransactionStatus
except ImportError as missing:
    print(missing)
    sys.exit(77)

NATIVE = Asset.native()


def straight_path(url: str) -> None:
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


class World:
    """A server, its network, and transactions of the next sequence number."""

    def __init__(self, url: str):
        self.url = url
        self.server = Server(url)
        self.passphrase = self.server.root().call()["network_passphrase"]

    def funded(self) -> Keypair:
        key = Keypair.random()
        with urllib.request.urlopen(f"{self.url}/friendbot?addr={key.public_key}") as answer:
            assert json.load(answer)["successful"]
        return key

    def advance(self, seconds: int, ledgers: int) -> None:
        body = json.dumps({"seconds": seconds, "ledgers": ledgers}).encode()
        urllib.request.urlopen(f"{self.url}/obol/advance", data=body).read()

    def build(self, source, operations, fee=100, signers=None, skip=0, change=lambda builder: None):
        account = self.server.load_account(source.public_key)
        account.sequence += skip
        builder = TransactionBuilder(account, self.passphrase, base_fee=fee)
        for operation in operations:
            builder.append_operation(operation)
        change(builder)
        if builder.time_bounds is None:
            builder.add_time_bounds(0, 0)
        tx = builder.build()
        for key in [source] if signers is None else signers:
            tx.sign(key)
        return tx

    def apply(self, source, operations, **more):
        return self.server.submit_transaction(self.build(source, operations, **more))

    def fails(self, tx, transaction, operations=None) -> None:
        """The submission must fail, with exactly these codes."""
        try:
            self.server.submit_transaction(tx)
        except BadRequestError as error:
            codes = error.extras["result_codes"]
            assert codes.get("inner_transaction", codes["transaction"]) == transaction, codes
            assert codes.get("operations") == operations, codes
            return
        raise AssertionError(f"{transaction} {operations}: it succeeded")


def every_failure(world: World) -> None:
    alice, bob, issuer, strict, stranger = *(world.funded() for _ in range(4)), Keypair.random()
    gold, held = Asset("GOLD", issuer.public_key), Asset("HELD", strict.public_key)
    build, fails = world.build, world.fails

    def pay(to, asset=NATIVE, amount="1", source=None):
        return Payment(to.public_key, asset, amount, source and source.public_key)

    # The transaction as a whole.
    bump, now = BumpSequence(0), int(time.time())
    fails(build(alice, [bump], change=lambda b: b.add_time_bounds(now + 10**7, 0)), "tx_too_early")
    fails(build(alice, [bump], change=lambda b: b.add_time_bounds(0, 1)), "tx_too_late")
    fails(build(alice, [bump], change=lambda b: b.set_ledger_bounds(10**6, 0)), "tx_too_early")
    fails(build(alice, [bump], change=lambda b: b.set_ledger_bounds(0, 1)), "tx_too_late")
    fails(build(alice, []), "tx_missing_operation")
    fails(build(alice, [bump], skip=1), "tx_bad_seq")
    fails(build(alice, [bump], signers=[]), "tx_bad_auth")
    fails(build(alice, [bump], signers=[bob]), "tx_bad_auth")
    fails(build(alice, [bump], signers=[alice, bob]), "tx_bad_auth_extra")
    fails(build(alice, [bump], fee=99), "tx_insufficient_fee")
    # From here on its sequence number has an age.
    world.apply(alice, [bump])
    fails(build(alice, [bump], change=lambda b: b.set_min_sequence_age(10**6)), "tx_bad_minseq_age_or_gap")
    fails(build(alice, [bump], change=lambda b: b.set_min_sequence_ledger_gap(10**6)), "tx_bad_minseq_age_or_gap")
    gone = TransactionBuilder(Account(stranger.public_key, 1), world.passphrase).append_operation(bump)
    gone = gone.add_time_bounds(0, 0).build()
    gone.sign(stranger)
    fails(gone, "tx_no_source_account")
    poor = Keypair.random()
    world.apply(alice, [CreateAccount(poor.public_key, "1")])
    fails(build(poor, [bump]), "tx_insufficient_balance")
    fails(build(alice, [BeginSponsoringFutureReserves(bob.public_key)]), "tx_bad_sponsorship")
    bumped = TransactionBuilder.build_fee_bump_transaction(bob, 100, build(alice, [bump], skip=1), world.passphrase)
    bumped.sign(bob)
    fails(bumped, "tx_bad_seq")

    # Operations.
    def one(code, source, operation, **more):
        fails(build(source, [operation], **more), "tx_failed", [code])

    one("op_underfunded", alice, pay(bob, amount="1000000"))
    one("op_no_destination", alice, pay(stranger))
    one("op_no_trust", alice, pay(bob, gold))
    world.apply(bob, [ChangeTrust(gold, "5")])
    one("op_src_no_trust", alice, pay(bob, gold))
    one("op_line_full", issuer, pay(bob, gold, "6"))
    flags = AuthorizationFlag.AUTHORIZATION_REQUIRED | AuthorizationFlag.AUTHORIZATION_REVOCABLE
    world.apply(strict, [SetOptions(set_flags=flags)])
    world.apply(alice, [ChangeTrust(held)])
    one("op_not_authorized", strict, pay(alice, held))
    allow = SetTrustLineFlags(alice.public_key, held, set_flags=TrustLineFlags.AUTHORIZED_FLAG)
    forbid = SetTrustLineFlags(alice.public_key, held, clear_flags=TrustLineFlags.AUTHORIZED_FLAG)
    world.apply(strict, [allow, pay(alice, held, "7"), forbid])
    one("op_src_not_authorized", alice, pay(strict, held))
    one("op_underfunded", alice, CreateAccount(stranger.public_key, "1000000"))
    one("op_low_reserve", alice, CreateAccount(stranger.public_key, "0.5"))
    one("op_already_exists", alice, CreateAccount(bob.public_key, "1"))
    one("op_no_issuer", alice, ChangeTrust(Asset("GOLD", stranger.public_key)))
    world.apply(issuer, [pay(bob, gold, "2")])
    one("op_invalid_limit", bob, ChangeTrust(gold, "1"))
    one("op_malformed", issuer, ChangeTrust(gold))
    small = Keypair.random()
    world.apply(alice, [CreateAccount(small.public_key, "1.1")])
    one("op_low_reserve", small, ChangeTrust(gold))

    def signer():
        return SetOptions(signer=Signer.ed25519_public_key(Keypair.random().public_key, 1))

    one("op_low_reserve", small, signer())
    codes = ["op_success"] * 20 + ["op_too_many_signers"]
    fails(build(alice, [signer() for _ in range(21)]), "tx_failed", codes)
    required = AuthorizationFlag.AUTHORIZATION_REQUIRED
    one("op_bad_flags", alice, SetOptions(set_flags=required, clear_flags=required))
    clawback = AuthorizationFlag.AUTHORIZATION_CLAWBACK_ENABLED
    one("op_auth_revocable_required", alice, SetOptions(set_flags=clawback))
    one("op_bad_signer", alice, SetOptions(signer=Signer.ed25519_public_key(alice.public_key, 1)))
    fixed, far = world.funded(), world.funded()
    world.apply(fixed, [SetOptions(set_flags=AuthorizationFlag.AUTHORIZATION_IMMUTABLE)])
    one("op_cant_change", fixed, SetOptions(set_flags=required))
    one("op_immutable_set", fixed, AccountMerge(bob.public_key))
    one("op_no_account", alice, AccountMerge(stranger.public_key))
    one("op_has_sub_entries", bob, AccountMerge(alice.public_key))
    fails(build(far, [BumpSequence(2**50), AccountMerge(alice.public_key)]), "tx_failed", ["op_success", "op_seq_num_too_far"])
    one("op_data_name_not_found", alice, ManageData("nothing", None))
    one("op_bad_auth", alice, pay(alice, source=bob))
    one("op_no_source_account", alice, pay(alice, source=stranger), signers=[alice, stranger])
    one("op_does_not_exist", alice, ClaimClaimableBalance("00000000" + "11" * 32))
    one("op_not_supported", alice, ManageSellOffer(NATIVE, gold, "1", "1"))
    one("op_not_clawback_enabled", strict, Clawback(held, alice.public_key, "1"))
    one("op_not_sponsored", alice, EndSponsoringFutureReserves())


def signers_and_preconditions(world: World) -> None:
    alice, bob, cosigner, witness = world.funded(), world.funded(), Keypair.random(), Keypair.random()
    secret, payload = b"open sesame", b"seen"
    world.apply(
        alice,
        [
            SetOptions(signer=Signer.ed25519_public_key(cosigner.public_key, 1)),
            SetOptions(
                signer=Signer.sha256_hash(hashlib.sha256(secret).digest(), 1),
                low_threshold=1,
                med_threshold=2,
                high_threshold=2,
            ),
        ],
    )
    pay = Payment(bob.public_key, NATIVE, "1")
    world.fails(world.build(alice, [pay]), "tx_failed", ["op_bad_auth"])
    world.apply(alice, [pay], signers=[alice, cosigner])
    revealed = world.build(alice, [pay], signers=[cosigner])
    revealed.sign_hashx(secret)
    world.server.submit_transaction(revealed)
    account = world.server.load_account(alice.public_key).raw_data
    kinds = sorted(s["type"] for s in account["signers"])
    assert kinds == ["ed25519_public_key", "ed25519_public_key", "sha256_hash"], kinds

    # A transaction that its account allowed beforehand, and that uses the permission up.
    allowed = world.build(bob, [Payment(alice.public_key, NATIVE, "2")], signers=[], skip=1)
    world.apply(bob, [SetOptions(signer=Signer.pre_auth_tx(allowed.hash(), 1))])
    world.server.submit_transaction(allowed)
    assert len(world.server.load_account(bob.public_key).raw_data["signers"]) == 1

    # Every precondition, in a transaction that meets them and says so afterwards.
    world.apply(bob, [BumpSequence(0)])
    world.advance(100, 5)
    sequence = world.server.load_account(bob.public_key).sequence

    def conditions(builder):
        builder.add_time_bounds(1, 4102444800)
        builder.set_ledger_bounds(1, 1000000)
        builder.set_min_sequence_number(sequence)
        builder.set_min_sequence_age(60)
        builder.set_min_sequence_ledger_gap(3)
        builder.add_extra_signer(SignerKey.ed25519_signed_payload(SignedPayloadSigner(witness.public_key, payload)))

    tx = world.build(bob, [BumpSequence(0)], skip=41, change=conditions)
    world.fails(tx, "tx_bad_auth")
    tx.signatures.append(witness.sign_payload_decorated(payload))
    done = world.server.submit_transaction(tx)
    said = dict(done["preconditions"])
    assert len(said.pop("extra_signers")) == 1
    assert said == {
        "timebounds": {"min_time": "1", "max_time": "4102444800"},
        "ledgerbounds": {"min_ledger": 1, "max_ledger": 1000000},
        "min_account_sequence": str(sequence),
        "min_account_sequence_age": "60",
        "min_account_sequence_ledger_gap": 3,
    }, said
    assert world.server.load_account(bob.public_key).sequence == sequence + 42


def claimable_balances(world: World) -> None:
    alice, bob = world.funded(), world.funded()
    never = ClaimPredicate.predicate_not(ClaimPredicate.predicate_unconditional())
    claimants = [Claimant(bob.public_key), Claimant(alice.public_key, never)]
    world.apply(alice, [CreateClaimableBalance(NATIVE, "12.5", claimants)])
    [balance] = world.server.claimable_balances().for_claimant(bob.public_key).call()["_embedded"]["records"]
    assert (balance["asset"], balance["amount"], balance["sponsor"]) == ("native", "12.5000000", alice.public_key)
    claim = ClaimClaimableBalance(balance["id"])
    world.fails(world.build(alice, [claim]), "tx_failed", ["op_cannot_claim"])
    world.apply(bob, [claim])
    try:
        world.server.claimable_balances().claimable_balance(balance["id"]).call()
        raise AssertionError("what was claimed is still there")
    except NotFoundError:
        pass
    history = world.server.operations().for_claimable_balance(balance["id"]).call()["_embedded"]["records"]
    assert [o["type"] for o in history] == ["create_claimable_balance", "claim_claimable_balance"], history


class Cutter:
    """A proxy to the server that cuts every stream after some events."""

    def __init__(self, url: str, events: int):
        host, port = url.removeprefix("http://").split(":")
        self.target, self.events, self.connections = (host, int(port)), events, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            near, _ = self.listener.accept()
            self.connections += 1
            far = socket.create_connection(self.target)
            threading.Thread(target=self.copy, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self.copy, args=(far, near, self.events), daemon=True).start()

    def copy(self, source, to, events) -> None:
        seen = b""
        try:
            while data := source.recv(65536):
                to.sendall(data)
                seen += data
                if events is not None and seen.count(b"\nid: ") >= events:
                    break
        except OSError:
            pass
        for end in (source, to):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def streams(world: World) -> None:
    alice, bob = world.funded(), world.funded()
    cutter = Cutter(world.url, 2)
    amounts = []
    # Each payment comes after the event before it, so every stream is cut with one still to come.
    for event in Server(cutter.url).payments().for_account(bob.public_key).cursor("0").stream():
        amounts.append(event.get("amount", event.get("starting_balance")))
        if len(amounts) == 9:
            break
        world.apply(alice, [Payment(bob.public_key, NATIVE, str(len(amounts)))])
    assert amounts == ["10000.0000000"] + [f"{n}.0000000" for n in range(1, 9)], amounts
    assert cutter.connections >= 4, cutter.connections


def stellar_rpc(world: World) -> None:
    rpc = SorobanServer(f"{world.url}/rpc")
    assert rpc.get_health().status == "healthy"
    network = rpc.get_network()
    assert network.passphrase == world.passphrase and network.friendbot_url == f"{world.url}/friendbot"
    alice, bob, stranger = world.funded(), world.funded(), Keypair.random()
    latest = rpc.get_latest_ledger()
    xdr.LedgerHeader.from_xdr(latest.header_xdr)
    xdr.LedgerCloseMeta.from_xdr(latest.metadata_xdr)
    try:
        rpc.load_account(stranger.public_key)
        raise AssertionError("an account that does not exist was loaded")
    except AccountNotFoundException:
        pass
    source = rpc.load_account(alice.public_key)
    builder = TransactionBuilder(source, world.passphrase, base_fee=100)
    tx = builder.append_operation(Payment(bob.public_key, NATIVE, "3")).add_time_bounds(0, 0).build()
    tx.sign(alice)
    sent = rpc.send_transaction(tx)
    assert sent.status == SendTransactionStatus.PENDING and sent.hash == tx.hash_hex(), sent
    found = rpc.poll_transaction(sent.hash)
    assert found.status == GetTransactionStatus.SUCCESS and found.fee_bump is False, found
    xdr.TransactionMeta.from_xdr(found.result_meta_xdr)
    again = rpc.send_transaction(tx)
    assert again.status == SendTransactionStatus.ERROR, again
    result = xdr.TransactionResult.from_xdr(again.error_result_xdr)
    assert result.result.code == xdr.TransactionResultCode.txBAD_SEQ, result
    assert rpc.get_transaction("ab" * 32).status == GetTransactionStatus.NOT_FOUND
    listed = rpc.get_transactions(start_ledger=latest.sequence, limit=10)
    assert sent.hash in [one.transaction_hash for one in listed.transactions]
    assert rpc.get_transactions(cursor=listed.cursor, limit=10).transactions == []
    # The ledger that has it, as validators hand it out: its set hashes to what the header says.
    [ledger] = rpc.get_ledgers(start_ledger=found.ledger, limit=1).ledgers
    header = xdr.LedgerHeaderHistoryEntry.from_xdr(ledger.header_xdr)
    meta = xdr.LedgerCloseMeta.from_xdr(ledger.metadata_xdr)
    digest = hashlib.sha256(meta.v2.tx_set.to_xdr_bytes()).digest()
    assert header.header.scp_value.tx_set_hash.hash == digest
    assert header.hash.hash.hex() == ledger.hash
    assert meta.v2.tx_processing[0].result.transaction_hash.hash.hex() == sent.hash
    assert rpc.get_fee_stats().inclusion_fee.max == 100
    assert rpc.get_version_info().protocol_version == network.protocol_version
    for unsupported in (lambda: rpc.simulate_transaction(tx), lambda: rpc.get_events(start_ledger=1)):
        try:
            unsupported()
            raise AssertionError("this ledger runs no contracts")
        except SorobanRpcErrorResponse as error:
            assert error.code == -32601 and "not supported" in error.message, error


def main(url: str) -> None:
    straight_path(url)
    world = World(url)
    for part in (every_failure, signers_and_preconditions, claimable_balances, streams, stellar_rpc):
        part(world)
        print(f"{part.__name__}: fine")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
