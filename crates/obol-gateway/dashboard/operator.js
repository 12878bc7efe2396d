// What an operator of a relay looks at.
import { meter } from './charts.js';
import { badge, card, empty, facts, figure, key, money, problem, size, some, table, tile, tiles, time } from './common.js';
import { fill, h } from './dom.js';
import { amount, bytes, integer, percent, perGib, ratio, short, span, sum } from './format.js';
import { historyCard } from './history.js';

/** Colour, word, and what to do next. */
const STATES = {
  starting: ['busy', 'Starting', ''],
  unpaid: ['warn', 'Unpaid', 'A new relay is unmeasured for days. See that directory, address and ledger are well; the rest is waiting.'],
  initial_credit: ['busy', 'Initial credit', 'Circuits use their initial credit; payments follow.'],
  paying: ['good', 'Being paid', ''],
  out_of_funds: ['bad', 'Out of funds', 'Escrows to other relays cannot be opened: add to the capital account, under Money.'],
  stopped: ['bad', 'Payments stopped', 'The disk is full, or the journal’s limit is reached: make room and restart.'],
  hibernating: ['off', 'Hibernating', 'The limit of this period is used; accounting.max and SIGHUP change that.'],
};

/** An old ledger is no ledger: new escrows are believed only on one younger than this (payments.ledger.max_age's default). */
const LEDGER_OLD = 360;

export function ledgerHealth(ledger, now, paid = false) {
  if (!ledger && paid) return ['off', 'not asked lately', 'The ledger is asked when something is to be opened, settled or shown.'];
  if (!ledger) return ['off', 'no ledger', 'This program has no ledger configured: it is neither paid nor paying.'];
  const age = now - Number(ledger.close_time ?? 0);
  if (!ledger.reachable) return ['bad', 'not reachable', 'The ledger does not answer. What is believed already is credited; nothing new can be opened or settled.'];
  if (!ledger.close_time) return ['busy', 'not read yet', 'No closed ledger was read so far.'];
  if (age > LEDGER_OLD) return ['bad', `stands still for ${span(age)}`, 'The newest closed ledger is old. No new escrow is believed until ledgers close again.'];
  return ['good', 'healthy', 'Ledgers close and can be read.'];
}

function standing(tor, now) {
  if (!tor) return ['off', 'not known'];
  if (tor.listed !== undefined && tor.listed !== null) return tor.listed ? ['good', 'in the consensus'] : ['warn', 'not in the consensus'];
  const all = tor.authorities ?? [];
  const have = all.filter(a => a.has_our_descriptor).length;
  if (all.length === 0) return ['off', 'no authority asked yet'];
  if (have * 2 > all.length) return ['good', `descriptor at ${have} of ${all.length} authorities`];
  return [have ? 'warn' : 'bad', `descriptor at ${have} of ${all.length} authorities`];
}

function reachable(tor) {
  if (!tor || tor.reachable === null || tor.reachable === undefined) return ['off', 'not known yet'];
  return tor.reachable ? ['good', 'reachable'] : ['bad', 'not reachable'];
}

export function statusCard(app) {
  const { store } = app;
  const { root, body } = card('Status', { wide: true, className: 'status' });
  return { root, need: ['status'], update() {
    const s = store.get('status');
    if (!s) return fill(body, store.error('status') ? problem(store.error('status')) : empty('Asking…'));
    const now = store.now();
    const [kind, word, next] = STATES[s.state] ?? ['off', s.state, ''];
    const ledger = ledgerHealth(s.ledger, now);
    const listed = standing(s.tor, now);
    const reach = reachable(s.tor);
    return fill(body, h('div', { class: 'state-line' }, h('span', { class: `state ${kind}` }, word), h('div', {}, h('p', { class: 'explanation' }, s.explanation), next && s.asset ? h('p', { class: 'hint' }, next) : null)),
      h('ul', { class: 'checks' },
        h('li', {}, h('span', {}, 'Tor'), badge(s.tor?.bootstrapped ? 'bootstrapped' : 'not bootstrapped', s.tor?.bootstrapped ? 'good' : 'warn')),
        h('li', {}, h('span', {}, 'Directory'), badge(listed[1], listed[0])),
        h('li', {}, h('span', {}, 'Address'), badge(reach[1], reach[0])),
        h('li', {}, h('span', {}, 'Ledger'), badge(ledger[1], ledger[0], ledger[2])),
        h('li', {}, h('span', {}, 'Up'), h('span', { class: 'plain' }, span(now - s.started_at)))));
  } };
}

function figures(app) {
  const { store } = app;
  const { root, body } = card('Now', { wide: true });
  return { root, need: ['status', 'balances', 'history'], update() {
    const s = store.get('status');
    const b = store.get('balances');
    if (!s) return;
    const carried = sum([s.carried.paid, s.carried.unpaid]);
    const history = store.get('history');
    const earned = history ? sum(history.bins.map(x => x.earned)) : null;
    const settled = history ? sum(history.bins.map(x => x.settled_in)) : null;
    const over = { hour: 'last hour', day: 'last 24 hours', week: 'last 7 days', month: 'last 31 days' }[app.range];
    fill(body, tiles(
      tile('Carried', size(carried), [percent(ratio(s.carried.paid, carried)), ' of it paid, since the start']),
      tile('Earned', figure(earned, store.code), over),
      tile('Owed to us', b ? figure(sum([b.unsettled, b.owed_to_us]), store.code) : '–', b && sum([b.owed_to_us]) > 0n
        ? [amount(b.owed_to_us), ' of it by trust'] : 'claims not settled yet'),
      tile('Settled to us', figure(settled, store.code), over),
      tile('Circuits', h('span', { class: 'num' }, integer(s.circuits.paid), h('small', {}, ' paid')),
        h('span', {}, integer(s.circuits.unpaid), ' in the unpaid class')),
      tile('Links', h('span', { class: 'num' }, integer(s.links)), s.nickname ? `of ${s.nickname}` : null)));
  } };
}

const LIMITS = {
  unsettled: ['Claims not settled', 'payments.limits.unsettled'],
  unsettled_of_payer: ['Claims of one payer not settled', 'payments.limits.unsettled_of_payer'],
  locked: ['Locked in own escrows', 'payments.limits.locked'],
  locked_with_peer: ['Locked with one relay', 'payments.limits.locked_with_peer'],
  new_escrows: ['New escrows', 'payments.limits.new_escrows_of_one'],
  payee_lumens: ['Lumens that open escrows may need', 'lumens of the payee accounts'],
  payer_lumens: ['Openings that the capital’s lumens suffice for', 'lumens of the capital account'],
  owed_to_us: ['Owed to us by trust', 'payments.trust, max_unsettled'],
  owed: ['Owed by us by trust', 'payments.owing.max_owed'],
  owed_to_peer: ['Owed to one relay', 'what that relay allows'],
};

export function exposure(app) {
  const { store } = app;
  const { root, body } = card('Exposure against limits', { note: 'What others can cost this relay at most. The mark is at 80 %, where the alarm begins.' });
  return { root, need: ['limits'], update() {
    const limits = store.get('limits');
    if (!limits) return fill(body, store.error('limits') ? problem(store.error('limits')) : empty('Asking…'));
    if (limits.records.length === 0) {
      return fill(body, empty('No limit is set: what others may cost this relay is unbounded.', 'Set some under [payments.limits] in the configuration; SIGHUP reads it again.'));
    }
    return fill(body, h('ul', { class: 'meters' }, limits.records.map(l => {
      const [name, where] = LIMITS[l.limit] ?? [l.limit.replaceAll('_', ' '), ''];
      const say = n => (['stroops', 'lumens'].includes(l.unit) ? amount(n) : integer(n));
      const unit = { stroops: store.code, lumens: 'XLM', per_minute: 'a minute' }[l.unit] ?? l.unit.replaceAll('_', ' ');
      const share = ratio(l.used, l.of);
      return h('li', { key: l.limit }, h('div', { class: 'meter-head' }, h('span', { title: where }, name, l.alarm ? badge('alarm', 'bad') : null),
        h('span', { class: 'num' }, say(l.used), h('small', {}, ` of ${say(l.of)} ${unit}`))),
      meter({ label: name, fraction: share, alarm: l.alarm, text: `${say(l.used)} of ${say(l.of)} ${unit}, ${percent(share)}` }));
    })));
  } };
}

function directory(app) {
  const { store } = app;
  const { root, body } = card('Network and ledger');
  return { root, need: ['status'], update() {
    const s = store.get('status');
    if (!s) return;
    const now = store.now();
    const [kind, word, why] = ledgerHealth(s.ledger, now);
    const authorities = s.tor?.authorities ?? [];
    fill(body, facts(
      ['Ledger', [badge(word, kind), h('span', { class: 'hint' }, ' ', why)]],
      s.ledger?.sequence && ['Newest ledger', [h('span', { class: 'num' }, integer(s.ledger.sequence)), ', closed ', time(s.ledger.close_time, now, 'relative')]],
      ['Consensus', s.tor?.consensus_valid_after ? ['valid after ', time(s.tor.consensus_valid_after, now, 'full')] : 'none yet'],
      s.fingerprint && ['Fingerprint', key(s.fingerprint, 'fingerprint', 8, 8)],
      s.asset && ['Asset', [s.asset.code, ' of ', key(s.asset.issuer, 'issuer')]],
      s.network_passphrase && ['Network', s.network_passphrase],
      ['Version', s.version]),
    authorities.length === 0 ? empty('No authority has been asked yet.') : table('Directory authorities', [
      { name: 'Authority', cell: a => a.name },
      { name: 'Our descriptor', cell: a => (a.has_our_descriptor ? badge('has it', 'good') : badge('does not have it', 'warn')) },
      { name: 'Problem', wrap: true, cell: a => a.problem ?? 'none' },
    ], authorities, { rowKey: a => a.name }));
  } };
}

function tariff(app) {
  const { store } = app;
  const { root, body } = card('Tariff', { note: 'What new circuits are quoted. It changes with the configuration and SIGHUP.' });
  return { root, need: ['tariff'], update() {
    const t = store.get('tariff');
    if (!t) return fill(body, store.error('tariff')?.notForThisRole ? empty('This relay is not paid.', 'It has no [payments] section.') : store.error('tariff') ? problem(store.error('tariff')) : empty('Asking…'));
    return fill(body, facts(
      ['Price', [h('b', {}, `${integer(t.price_per_64_kib)} stroops`), ' per 64 KiB', h('span', { class: 'hint' }, ` = ${amount(perGib(t.price_per_64_kib), store.code)} per GiB`)]],
      ['Fee for passing on', `${Number(t.forward_ppm) / 10_000} %`],
      ['Most passed on', `${integer(t.forward_ceiling)} stroops per 64 KiB`],
      ['Largest step', bytes(t.max_step)],
      ['Initial credit', bytes(t.initial_credit)],
      ['Escrows from', money(t.min_deposit, store.code)],
      ['Escrow life', `${span(t.min_life)} to ${span(t.max_life)}, service ends ${span(t.margin)} before`]));
  } };
}

function circuits(app) {
  const { store } = app;
  let shown = 'all';
  const state = { all: false };
  const body0 = h('div', {});
  const head = h('div', {});
  const select = h('select', { 'aria-label': 'Class', onchange: e => {
    shown = e.target.value;
    view.update('circuits');
  } }, h('option', { value: 'all' }, 'Both classes'), h('option', { value: 'paid' }, 'Paid'), h('option', { value: 'unpaid' }, 'Unpaid class'));
  const { root, body } = card('Circuits', { wide: true, tools: select });
  body.append(head, body0);
  const view = { root, need: ['circuits'], update() {
    const all = store.get('circuits');
    if (!all) return fill(body0, store.error('circuits') ? problem(store.error('circuits')) : empty('Asking…'));
    const open = all.records.filter(c => c.open);
    const paid = open.filter(c => c.class === 'paid').length;
    const unpaid = open.length - paid;
    fill(head, open.length === 0 ? null : h('div', { class: 'split' },
      h('div', { class: 'meter-head' }, h('span', {}, h('span', { class: 'swatch c-paid' }), `${integer(paid)} paid`),
        h('span', {}, `${integer(unpaid)} in the unpaid class`, h('span', { class: 'swatch c-unpaid after' }))),
      h('svg', { class: 'split-bar', viewBox: '0 0 100 8', preserveAspectRatio: 'none', role: 'img', 'aria-label': `${paid} circuits paid, ${unpaid} in the unpaid class` },
        h('rect', { class: 'bar c-unpaid', width: 100, height: 8 }), h('rect', { class: 'bar c-paid', width: (100 * paid) / open.length, height: 8 }))));
    const rows = all.records.filter(c => shown === 'all' || c.class === shown)
      .sort((a, b) => Number(b.open) - Number(a.open) || (BigInt(b.metered) > BigInt(a.metered) ? 1 : -1));
    if (rows.length === 0) return fill(body0, empty('No circuit is here now.', shown === 'all' ? 'A new relay waits days for its first ones.' : 'Look at both classes.'));
    const most = rows.reduce((m, r) => (BigInt(r.metered) > m ? BigInt(r.metered) : m), 1n);
    const part = some(rows, state, () => view.update());
    return fill(body0, table('Circuits, the greatest first', [
      { name: 'Circuit', cell: c => h('span', { class: 'num' }, String(c.circuit)) },
      { name: 'Class', cell: c => (c.class === 'paid' ? badge('paid', 'good') : badge('unpaid', 'off')) },
      { name: 'From', cell: c => (c.from_client ? 'a client' : 'a relay') },
      { name: 'Carried', num: true, cell: c => size(c.metered), bar: c => ratio(c.metered, most), barClass: 'c-paid' },
      { name: 'Bought', num: true, cell: c => size(c.bought) },
      { name: 'Credit left', num: true, cell: c => size(c.credit) },
      { name: 'Payments', num: true, cell: c => integer(c.payments) },
      { name: 'Earned', num: true, cell: c => money(c.earned) },
      { name: 'Passed on', num: true, cell: c => money(c.forwarded) },
    ], part.rows, { rowKey: c => c.circuit }), part.more);
  } };
  return view;
}

const falling = (a, b) => (BigInt(b) > BigInt(a) ? 1 : BigInt(b) < BigInt(a) ? -1 : 0);

function neighbours(app) {
  const { store } = app;
  const { root, body } = card('Neighbour relays', { wide: true, note: 'Legs exist only between neighbours: what each one brought, and what it was paid.' });
  return { root, need: ['peers'], update() {
    const peers = store.get('peers');
    if (!peers) return fill(body, store.error('peers') ? problem(store.error('peers')) : empty('Asking…'));
    const rows = [...peers.records].sort((a, b) => falling(a.carried, b.carried) || falling(a.earned, b.earned) || falling(a.signed, b.signed));
    if (rows.length === 0) return fill(body, empty('No neighbour relay is known yet.', 'They come with the first links; escrows to them are opened ahead of need, at random times.'));
    const most = field => rows.reduce((m, r) => (BigInt(r[field] ?? 0) > m ? BigInt(r[field]) : m), 1n);
    const [carried, earned, signed] = ['carried', 'earned', 'signed'].map(most);
    return fill(body, table('Neighbour relays', [
      { name: 'Relay', cell: p => h('span', { class: 'relay' }, h('b', {}, p.nickname ?? 'unnamed'), ' ', key(p.peer, 'identity', 6, 4)) },
      { name: 'Links', num: true, cell: p => integer(p.links) },
      { name: 'Carried', num: true, cell: p => size(p.carried), bar: p => ratio(p.carried, carried), barClass: 'c-paid' },
      { name: 'Earned', num: true, cell: p => money(p.earned), bar: p => ratio(p.earned, earned), barClass: 'c-earned' },
      { name: 'Settled to us', num: true, cell: p => money(p.settled_in) },
      { name: 'Signed to it', num: true, cell: p => money(p.signed), bar: p => ratio(p.signed, signed), barClass: 'c-forwarded' },
      { name: 'Settled by us', num: true, cell: p => money(p.settled_out) },
      { name: 'Owed to us', num: true, cell: p => money(p.owed_to_us), title: 'by trust' },
      { name: 'Owed by us', num: true, cell: p => money(p.owed), title: 'by trust' },
      { name: 'Escrows', cell: p => h('span', { class: 'marks' }, badge(p.escrow_in ? 'in' : 'no in', p.escrow_in ? 'good' : 'off', p.escrow_in ? `pays us: ${p.escrow_in}` : 'It has no escrow to us.'),
        badge(p.escrow_out ? 'out' : 'no out', p.escrow_out ? 'good' : 'off', p.escrow_out ? `we pay: ${p.escrow_out}` : 'We have no escrow to it.')) },
      { name: 'History', cell: p => h('button', { type: 'button', class: 'small', 'aria-label': `History with ${p.nickname ?? short(p.peer)}`, onclick: () => {
        app.peer = p.peer;
        location.hash = '#/overview';
      } }, 'Show') },
    ], rows, { rowKey: p => p.peer }));
  } };
}

/** A plain Tor relay: no money, no escrows. */
function unpaidCard() {
  const { root, body } = card('Payments', { className: 'two' });
  body.append(empty('This relay is neither paid nor paying.', 'A [payments] section in the configuration and a restart change that.'));
  return { root, need: [], update() {} };
}

export function operatorViews(app) {
  const shared = app.shared;
  if (app.store.get('status').asset === null) {
    return [
      { name: 'overview', title: 'Overview', cards: () => [statusCard(app), shared.warningsCard(app), historyCard(app, ['carried']), unpaidCard(), directory(app)] },
      { name: 'circuits', title: 'Circuits', cards: () => [circuits(app)] },
    ];
  }
  return [
    { name: 'overview', title: 'Overview', cards: () => [statusCard(app), shared.warningsCard(app), figures(app), historyCard(app, ['carried', 'earned', 'owed', 'paidOn', 'requests'], { peers: true }),
      exposure(app), [shared.balancesCard(app), tariff(app)], directory(app)] },
    { name: 'neighbours', title: 'Neighbours', cards: () => [neighbours(app)] },
    { name: 'circuits', title: 'Circuits', cards: () => [circuits(app)] },
    { name: 'escrows', title: 'Escrows', cards: () => [shared.timelineCard(app), shared.escrowsCard(app)] },
    { name: 'payments', title: 'Payments', cards: () => [shared.paymentsCard(app), shared.requestsCard(app)] },
    { name: 'money', title: 'Money', cards: () => [shared.balancesCard(app), shared.accountsCard(app), shared.invoicesCard(app), shared.transfersCard(app)] },
  ];
}

