// The official JavaScript SDK against the embedded ledger: node sdk.mjs URL MODULES
//
// MODULES is the directory with node_modules. Exits 77 when the SDK is not in it.

import assert from 'node:assert/strict';
import net from 'node:net';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [url, modules] = process.argv.slice(2);
let sdk;
try {
  sdk = createRequire(join(modules, 'package.json'))('@stellar/stellar-sdk');
} catch (missing) {
  if (missing.code !== 'MODULE_NOT_FOUND') throw missing;
  console.log(missing.message.split('\n')[0]);
  process.exit(77);
}
const {
  Asset, AuthClawbackEnabledFlag, AuthImmutableFlag, AuthRequiredFlag, AuthRevocableFlag, Claimant, Horizon, Keypair,
  NotFoundError, Operation, StrKey, TransactionBuilder, hash, rpc,
} = sdk;

const horizon = new Horizon.Server(url, { allowHttp: true });
const { network_passphrase: networkPassphrase } = await horizon.root();

/** Winds the ledger's clock. */
async function advance(seconds, ledgers = 1) {
  const answer = await fetch(`${url}/obol/advance`, { method: 'POST', body: JSON.stringify({ seconds, ledgers }) });
  assert.equal(answer.status, 200);
}

const hex = (tx) => Buffer.from(tx.hash()).toString('hex');

async function funded() {
  const key = Keypair.random();
  const answer = await horizon.friendbot(key.publicKey()).call();
  assert.equal(answer.successful, true);
  return key;
}

/** A transaction of the source's next sequence number, signed by it or by `signers`. */
async function build(source, operations, { fee = 100, signers = [source], change = (builder) => builder, sequence } = {}) {
  const account = await horizon.loadAccount(source.publicKey());
  if (sequence) account.incrementSequenceNumber();
  const builder = new TransactionBuilder(account, { fee: String(fee), networkPassphrase });
  for (const operation of operations) builder.addOperation(operation);
  change(builder);
  if (!builder.timebounds) builder.setTimeout(0);
  const tx = builder.build();
  for (const key of signers) tx.sign(key);
  return tx;
}

const apply = async (source, operations, options) => horizon.submitTransaction(await build(source, operations, options));

/** The submission must fail, with exactly these codes. */
async function fails(tx, transaction, operations) {
  let problem;
  try {
    await horizon.submitTransaction(await tx);
  } catch (error) {
    problem = error.response?.data ?? error.response;
    assert.ok(problem?.extras, `${transaction} ${operations}: ${error.stack}`);
  }
  assert.ok(problem, `${transaction} ${operations}: it succeeded`);
  const codes = problem.extras.result_codes;
  assert.equal(problem.status, 400);
  assert.equal(codes.inner_transaction ?? codes.transaction, transaction, JSON.stringify(codes));
  assert.deepEqual(codes.operations, operations, JSON.stringify(codes));
}

async function accountsAndPayments() {
  const stranger = Keypair.random();
  await assert.rejects(horizon.loadAccount(stranger.publicKey()), NotFoundError);
  const [alice, bob, issuer] = [await funded(), await funded(), await funded()];
  const gold = new Asset('OBOL', issuer.publicKey());
  await apply(alice, [Operation.changeTrust({ asset: gold, limit: '1000' })]);
  await apply(bob, [Operation.changeTrust({ asset: gold })]);
  await apply(issuer, [Operation.payment({ destination: alice.publicKey(), asset: gold, amount: '100.5' })]);
  const bounds = await horizon.fetchTimebounds(300);
  const paid = await apply(alice, [Operation.payment({ destination: bob.publicKey(), asset: gold, amount: '0.0000001' })], {
    fee: await horizon.fetchBaseFee(),
    change: (builder) => builder.addMemo(sdk.Memo.text('a stroop')).setTimebounds(bounds.minTime, bounds.maxTime),
  });
  assert.deepEqual([paid.successful, paid.memo, paid.fee_charged], [true, 'a stroop', '100']);
  const held = async (key) => (await horizon.loadAccount(key.publicKey())).balances.find((b) => b.asset_code === 'OBOL');
  assert.equal((await held(bob)).balance, '0.0000001');
  assert.deepEqual([(await held(alice)).balance, (await held(alice)).limit], ['100.4999999', '1000.0000000']);

  // Lists and pages.
  const page = await horizon.payments().forAccount(bob.publicKey()).limit(1).call();
  assert.equal(page.records[0].type, 'create_account');
  const next = await page.next();
  assert.deepEqual([next.records[0].type, next.records[0].amount], ['payment', '0.0000001']);
  assert.equal((await next.prev()).records[0].type, 'create_account');
  const effects = await horizon.effects().forAccount(bob.publicKey()).limit(200).call();
  assert.deepEqual(effects.records.map((e) => e.type).sort(), ['account_created', 'account_credited', 'signer_created', 'trustline_created'].sort());
  const asset = (await horizon.assets().forCode('OBOL').forIssuer(issuer.publicKey()).call()).records[0];
  assert.equal(asset.balances.authorized, '100.5000000');
  const found = await horizon.transactions().transaction(paid.hash).call();
  assert.equal(found.ledger_attr ?? found.ledger, paid.ledger);
  assert.ok((await horizon.ledgers().order('desc').limit(1).call()).records[0].sequence >= paid.ledger);
  assert.equal((await horizon.feeStats()).last_ledger_base_fee, '100');

  // Asynchronous submission.
  const later = await build(bob, [Operation.manageData({ name: 'note', value: 'hello' })]);
  const pending = await horizon.submitAsyncTransaction(later);
  assert.equal(pending.tx_status, 'PENDING');
  for (;;) {
    try {
      await horizon.transactions().transaction(pending.hash).call();
      break;
    } catch (error) {
      assert.ok(error instanceof NotFoundError, error);
    }
  }
  assert.equal((await horizon.loadAccount(bob.publicKey())).data_attr.note, Buffer.from('hello').toString('base64'));
}

async function everyFailure() {
  const [alice, bob, issuer, strict] = [await funded(), await funded(), await funded(), await funded()];
  const gold = new Asset('GOLD', issuer.publicKey());
  const held = new Asset('HELD', strict.publicKey());
  const pay = (to, asset = Asset.native(), amount = '1', source) =>
    Operation.payment({ destination: to.publicKey(), asset, amount, source: source?.publicKey() });
  const stranger = Keypair.random();

  // The transaction as a whole.
  const now = Math.floor(Date.now() / 1000);
  const bump = Operation.bumpSequence({ bumpTo: '0' });
  await fails(build(alice, [bump], { change: (b) => b.setTimebounds(now + 10 ** 7, 0) }), 'tx_too_early');
  await fails(build(alice, [bump], { change: (b) => b.setTimebounds(0, 1) }), 'tx_too_late');
  await fails(build(alice, [bump], { change: (b) => b.setLedgerbounds(10 ** 6, 0) }), 'tx_too_early');
  await fails(build(alice, [bump], { change: (b) => b.setLedgerbounds(0, 1) }), 'tx_too_late');
  await fails(build(alice, []), 'tx_missing_operation');
  await fails(build(alice, [bump], { sequence: true }), 'tx_bad_seq');
  await fails(build(alice, [bump], { signers: [] }), 'tx_bad_auth');
  await fails(build(alice, [bump], { signers: [bob] }), 'tx_bad_auth');
  await fails(build(alice, [bump], { signers: [alice, bob] }), 'tx_bad_auth_extra');
  await fails(build(alice, [bump], { fee: 99 }), 'tx_insufficient_fee');
  // From here on its sequence number has an age.
  await apply(alice, [bump]);
  await fails(build(alice, [bump], { change: (b) => b.setMinAccountSequenceAge(10n ** 6n) }), 'tx_bad_minseq_age_or_gap');
  await fails(build(alice, [bump], { change: (b) => b.setMinAccountSequenceLedgerGap(10 ** 6) }), 'tx_bad_minseq_age_or_gap');
  const gone = new TransactionBuilder(new sdk.Account(stranger.publicKey(), '1'), { fee: '100', networkPassphrase });
  const missing = gone.addOperation(bump).setTimeout(0).build();
  missing.sign(stranger);
  await fails(missing, 'tx_no_source_account');
  const poor = Keypair.random();
  await apply(alice, [Operation.createAccount({ destination: poor.publicKey(), startingBalance: '1' })]);
  await fails(build(poor, [bump]), 'tx_insufficient_balance');
  const begin = Operation.beginSponsoringFutureReserves({ sponsoredId: bob.publicKey() });
  await fails(build(alice, [begin]), 'tx_bad_sponsorship');
  const inner = await build(alice, [bump], { sequence: true });
  const bumped = TransactionBuilder.buildFeeBumpTransaction(bob, '200', inner, networkPassphrase);
  bumped.sign(bob);
  await fails(bumped, 'tx_bad_seq');

  // Operations.
  const one = (transaction, code) => fails(transaction, 'tx_failed', [code]);
  await one(build(alice, [pay(bob, Asset.native(), '1000000')]), 'op_underfunded');
  await one(build(alice, [pay(stranger)]), 'op_no_destination');
  await one(build(alice, [pay(bob, gold)]), 'op_no_trust');
  await apply(bob, [Operation.changeTrust({ asset: gold, limit: '5' })]);
  await one(build(alice, [pay(bob, gold)]), 'op_src_no_trust');
  await one(build(issuer, [pay(bob, gold, '6')]), 'op_line_full');
  await apply(strict, [Operation.setOptions({ setFlags: AuthRequiredFlag | AuthRevocableFlag })]);
  await apply(alice, [Operation.changeTrust({ asset: held })]);
  await one(build(strict, [pay(alice, held)]), 'op_not_authorized');
  const line = (flags) => Operation.setTrustLineFlags({ trustor: alice.publicKey(), asset: held, flags });
  await apply(strict, [line({ authorized: true }), pay(alice, held, '7'), line({ authorized: false })]);
  await one(build(alice, [pay(strict, held)]), 'op_src_not_authorized');
  const create = (key, startingBalance) => Operation.createAccount({ destination: key.publicKey(), startingBalance });
  await one(build(alice, [create(stranger, '1000000')]), 'op_underfunded');
  await one(build(alice, [create(stranger, '0.5')]), 'op_low_reserve');
  await one(build(alice, [create(bob, '1')]), 'op_already_exists');
  await one(build(alice, [Operation.changeTrust({ asset: new Asset('GOLD', stranger.publicKey()) })]), 'op_no_issuer');
  await one(build(bob, [pay(issuer, gold, '1')]), 'op_underfunded');
  await apply(issuer, [pay(bob, gold, '2')]);
  await one(build(bob, [Operation.changeTrust({ asset: gold, limit: '1' })]), 'op_invalid_limit');
  await one(build(issuer, [Operation.changeTrust({ asset: gold })]), 'op_malformed');
  const small = Keypair.random();
  await apply(alice, [create(small, '1.1')]);
  await one(build(small, [Operation.changeTrust({ asset: gold })]), 'op_low_reserve');
  const signer = (weight) => ({ ed25519PublicKey: Keypair.random().publicKey(), weight });
  await one(build(small, [Operation.setOptions({ signer: signer(1) })]), 'op_low_reserve');
  const many = Array.from({ length: 21 }, () => Operation.setOptions({ signer: signer(1) }));
  await fails(build(alice, many), 'tx_failed', [...Array(20).fill('op_success'), 'op_too_many_signers']);
  await one(build(alice, [Operation.setOptions({ setFlags: 1, clearFlags: 1 })]), 'op_bad_flags');
  await one(build(alice, [Operation.setOptions({ setFlags: AuthClawbackEnabledFlag })]), 'op_auth_revocable_required');
  await one(build(alice, [Operation.setOptions({ signer: { ed25519PublicKey: alice.publicKey(), weight: 1 } })]), 'op_bad_signer');
  const fixed = await funded();
  await apply(fixed, [Operation.setOptions({ setFlags: AuthImmutableFlag })]);
  await one(build(fixed, [Operation.setOptions({ setFlags: AuthRequiredFlag })]), 'op_cant_change');
  const merge = (to) => Operation.accountMerge({ destination: to.publicKey() });
  await one(build(fixed, [merge(bob)]), 'op_immutable_set');
  await one(build(alice, [merge(stranger)]), 'op_no_account');
  await one(build(bob, [merge(alice)]), 'op_has_sub_entries');
  const far = await funded();
  await fails(build(far, [Operation.bumpSequence({ bumpTo: String(2n ** 50n) }), merge(alice)]), 'tx_failed', ['op_success', 'op_seq_num_too_far']);
  await one(build(alice, [Operation.manageData({ name: 'nothing', value: null })]), 'op_data_name_not_found');
  await one(build(alice, [pay(alice, Asset.native(), '1', bob)]), 'op_bad_auth');
  await one(build(alice, [pay(alice, Asset.native(), '1', stranger)], { signers: [alice, stranger] }), 'op_no_source_account');
  const nothing = '00000000' + '11'.repeat(32);
  await one(build(alice, [Operation.claimClaimableBalance({ balanceId: nothing })]), 'op_does_not_exist');
  const offer = Operation.manageSellOffer({ selling: Asset.native(), buying: gold, amount: '1', price: '1', offerId: '0' });
  await one(build(alice, [offer]), 'op_not_supported');
  await one(build(strict, [Operation.clawback({ asset: held, from: alice.publicKey(), amount: '1' })]), 'op_not_clawback_enabled');
  await one(build(alice, [Operation.endSponsoringFutureReserves()]), 'op_not_sponsored');
}

async function signersAndPreconditions() {
  const [alice, bob] = [await funded(), await funded()];
  const [cosigner, secret] = [Keypair.random(), Buffer.from('open sesame')];
  await apply(alice, [
    Operation.setOptions({ signer: { ed25519PublicKey: cosigner.publicKey(), weight: 1 } }),
    Operation.setOptions({ signer: { sha256Hash: hash(secret), weight: 1 }, lowThreshold: 1, medThreshold: 2, highThreshold: 2 }),
  ]);
  const pay = Operation.payment({ destination: bob.publicKey(), asset: Asset.native(), amount: '1' });
  await fails(build(alice, [pay]), 'tx_failed', ['op_bad_auth']);
  await apply(alice, [pay], { signers: [alice, cosigner] });
  const revealed = await build(alice, [pay], { signers: [cosigner] });
  revealed.signHashX(secret);
  await horizon.submitTransaction(revealed);
  const kinds = (await horizon.loadAccount(alice.publicKey())).signers.map((s) => s.type).sort();
  assert.deepEqual(kinds, ['ed25519_public_key', 'ed25519_public_key', 'sha256_hash']);

  // A transaction that its account allowed beforehand, and that uses the permission up.
  const account = await horizon.loadAccount(bob.publicKey());
  account.incrementSequenceNumber();
  const allowed = new TransactionBuilder(account, { fee: '100', networkPassphrase })
    .addOperation(Operation.payment({ destination: alice.publicKey(), asset: Asset.native(), amount: '2' }))
    .setTimeout(0)
    .build();
  await apply(bob, [Operation.setOptions({ signer: { preAuthTx: allowed.hash(), weight: 1 } })]);
  await horizon.submitTransaction(allowed);
  assert.equal((await horizon.loadAccount(bob.publicKey())).signers.length, 1);

  // Every precondition, in a transaction that meets them and says so afterwards.
  await apply(bob, [Operation.bumpSequence({ bumpTo: '0' })]);
  await advance(100, 5);
  const witness = Keypair.random();
  const payload = Buffer.from('seen');
  const before = await horizon.loadAccount(bob.publicKey());
  const sequence = BigInt(before.sequenceNumber());
  const tx = new TransactionBuilder(new sdk.Account(bob.publicKey(), String(sequence + 41n)), { fee: '100', networkPassphrase })
    .addOperation(Operation.bumpSequence({ bumpTo: '0' }))
    .setTimebounds(1, 4102444800)
    .setLedgerbounds(1, 1000000)
    .setMinAccountSequence(String(sequence))
    .setMinAccountSequenceAge(60n)
    .setMinAccountSequenceLedgerGap(3)
    .setExtraSigners([StrKey.encodeSignedPayload(signedPayload(witness, payload))])
    .build();
  tx.sign(bob);
  await fails(tx, 'tx_bad_auth');
  tx.addDecoratedSignature(witness.signPayloadDecorated(payload));
  const done = await horizon.submitTransaction(tx);
  assert.deepEqual(
    { ...done.preconditions, extra_signers: done.preconditions.extra_signers.length },
    {
      timebounds: { min_time: '1', max_time: '4102444800' },
      ledgerbounds: { min_ledger: 1, max_ledger: 1000000 },
      min_account_sequence: String(sequence),
      min_account_sequence_age: '60',
      min_account_sequence_ledger_gap: 3,
      extra_signers: 1,
    },
  );
  const after = await horizon.loadAccount(bob.publicKey());
  assert.equal(after.sequenceNumber(), String(sequence + 42n));

  // A fee bump around an inner transaction of fee 0.
  const inner = await build(alice, [pay], { fee: 0, signers: [alice, cosigner] });
  const bump = TransactionBuilder.buildFeeBumpTransaction(bob, '200', inner, networkPassphrase);
  bump.sign(bob);
  const bumped = await horizon.submitTransaction(bump);
  assert.deepEqual([bumped.fee_account, bumped.source_account], [bob.publicKey(), alice.publicKey()]);
  assert.equal(bumped.inner_transaction.max_fee, '0');
  for (const one of [inner, bump]) {
    const found = await horizon.transactions().transaction(hex(one)).call();
    assert.equal(found.ledger_attr ?? found.ledger, bumped.ledger);
  }
}

function signedPayload(key, payload) {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(payload.length);
  const padding = Buffer.alloc((4 - (payload.length % 4)) % 4);
  return Buffer.concat([key.rawPublicKey(), length, payload, padding]);
}

async function claimableBalances() {
  const [alice, bob] = [await funded(), await funded()];
  const claimants = [
    new Claimant(bob.publicKey(), Claimant.predicateUnconditional()),
    new Claimant(alice.publicKey(), Claimant.predicateNot(Claimant.predicateUnconditional())),
  ];
  const made = await apply(alice, [Operation.createClaimableBalance({ asset: Asset.native(), amount: '12.5', claimants })]);
  const [balance] = (await horizon.claimableBalances().claimant(bob.publicKey()).call()).records;
  assert.deepEqual([balance.asset, balance.amount, balance.sponsor], ['native', '12.5000000', alice.publicKey()]);
  await fails(build(alice, [Operation.claimClaimableBalance({ balanceId: balance.id })]), 'tx_failed', ['op_cannot_claim']);
  await apply(bob, [Operation.claimClaimableBalance({ balanceId: balance.id })]);
  await assert.rejects(horizon.claimableBalances().claimableBalance(balance.id).call(), NotFoundError);
  const history = await horizon.operations().forClaimableBalance(balance.id).call();
  assert.deepEqual(history.records.map((o) => o.type), ['create_claimable_balance', 'claim_claimable_balance']);
  const transactions = await horizon.transactions().forClaimableBalance(balance.id).call();
  assert.equal(transactions.records[0].hash, made.hash);
}

/** A proxy to the server whose connections can be cut. */
async function cutter() {
  const target = new URL(url);
  const open = new Set();
  let connections = 0;
  const server = net.createServer((from) => {
    connections += 1;
    const to = net.connect(Number(target.port), target.hostname);
    for (const socket of [from, to]) {
      open.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => { open.delete(socket); from.destroy(); to.destroy(); });
    }
    from.pipe(to);
    to.pipe(from);
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    connections: () => connections,
    cut: () => open.forEach((socket) => socket.destroy()),
    close: () => { server.close(); open.forEach((socket) => socket.destroy()); },
  };
}

async function streams() {
  const [alice, bob] = [await funded(), await funded()];
  const proxy = await cutter();
  const through = new Horizon.Server(proxy.url, { allowHttp: true });
  const seen = [];
  let told = () => {};
  const stop = through.payments().forAccount(bob.publicKey()).cursor('0').limit(3).stream({
    onmessage: (payment) => { seen.push(payment); told(); },
  });
  const until = (count) => new Promise((resolve) => {
    told = () => { if (seen.length >= count) resolve(); };
    told();
  });
  await until(1);
  const pay = (amount) => apply(alice, [Operation.payment({ destination: bob.publicKey(), asset: Asset.native(), amount })]);
  for (let number = 1; number <= 8; number += 1) {
    // What is paid while nobody listens must come all the same, once.
    if (number === 3 || number === 6) proxy.cut();
    await pay(String(number));
    if (number % 2 === 0) await until(number + 1);
  }
  await until(9);
  assert.deepEqual(
    seen.map((payment) => payment.amount ?? payment.starting_balance),
    ['10000.0000000', ...[1, 2, 3, 4, 5, 6, 7, 8].map((n) => `${n}.0000000`)],
  );
  assert.ok(proxy.connections() >= 3, `the stream was cut twice: ${proxy.connections()} connections`);
  stop();
  proxy.close();
}

async function stellarRpc() {
  const server = new rpc.Server(`${url}/rpc`, { allowHttp: true });
  assert.equal((await server.getHealth()).status, 'healthy');
  const network = await server.getNetwork();
  assert.equal(network.passphrase, networkPassphrase);
  const alice = Keypair.random();
  const account = await server.requestAirdrop(alice.publicKey());
  assert.equal(account.accountId(), alice.publicKey());
  const bob = await funded();
  const source = await server.getAccount(alice.publicKey());
  const tx = new TransactionBuilder(source, { fee: '100', networkPassphrase })
    .addOperation(Operation.payment({ destination: bob.publicKey(), asset: Asset.native(), amount: '3' }))
    .setTimeout(0)
    .build();
  tx.sign(alice);
  const start = (await server.getLatestLedger()).sequence;
  const sent = await server.sendTransaction(tx);
  assert.deepEqual([sent.status, sent.hash], ['PENDING', hex(tx)]);
  let found;
  do found = await server.getTransaction(sent.hash); while (found.status === 'NOT_FOUND');
  assert.deepEqual([found.status, found.feeBump, found.applicationOrder], ['SUCCESS', false, 1]);
  const again = await server.sendTransaction(tx);
  assert.equal(again.status, 'ERROR');
  const listed = await server.getTransactions({ startLedger: start, pagination: { limit: 10 } });
  assert.ok(listed.transactions.some((one) => one.txHash === sent.hash));
  const after = await server.getTransactions({ pagination: { cursor: listed.cursor, limit: 10 } });
  assert.equal(after.transactions.length, 0);
  const ledgers = await server.getLedgers({ startLedger: start, pagination: { limit: 2 } });
  assert.equal(ledgers.ledgers[0].sequence, start);
  const trust = await build(bob, [Operation.changeTrust({ asset: new Asset('OBOL', alice.publicKey()) })]);
  await horizon.submitTransaction(trust);
  if (server.getTrustline) {
    const line = await server.getTrustline(bob.publicKey(), new Asset('OBOL', alice.publicKey()));
    assert.equal(String(line.balance), '0');
  }
  const fees = await server.getFeeStats();
  assert.equal(fees.inclusionFee.max, '100');
  assert.ok((await server.getVersionInfo()).version);
  await assert.rejects(server.getAccount(Keypair.random().publicKey()));
  await assert.rejects(server.simulateTransaction(tx), (error) => error.code === -32601);
  await assert.rejects(server.getEvents({ startLedger: start, filters: [] }), (error) => error.code === -32601);
  const nothing = await server.getTransaction('ab'.repeat(32));
  assert.equal(nothing.status, 'NOT_FOUND');
}

for (const part of [accountsAndPayments, everyFailure, signersAndPreconditions, claimableBalances, streams, stellarRpc]) {
  await part();
  console.log(`${part.name}: fine`);
}
process.exit(0);
