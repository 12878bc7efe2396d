// What a user of the client looks at.
import { meter } from './charts.js';
import { badge, card, empty, field, figure, form, key, money, problem, read, size, table, tile, tiles } from './common.js';
import { fill, h } from './dom.js';
import { amount, integer, parseInteger, parseUnits, percent, perGib, plainUnits, ratio, short, span, sum } from './format.js';
import { historyCard } from './history.js';
import { ledgerHealth } from './operator.js';

const STATES = {
  starting: ['busy', 'Starting', 'The client is connecting to Tor. Nothing to do.'],
  unpaid: ['warn', 'Unpaid', 'Your circuits get what paying clients leave. To pay: fund the wallet, and see that payments are not set to “never”.'],
  initial_credit: ['busy', 'Initial credit', 'Your circuits are in the paid class for a trial. The first payments follow once an escrow to your guard is open.'],
  paying: ['good', 'Paying', 'Your circuits are in the paid class: relays carry them first.'],
  out_of_funds: ['bad', 'Out of funds', 'There is not enough money for another payment. Add funds, or raise the budget that is spent.'],
  stopped: ['bad', 'Payments stopped', 'The journal cannot be written. Make room on the disk and restart the client.'],
  hibernating: ['off', 'Resting', 'The client rests.'],
};

function stateCard(app) {
  const { store } = app;
  const { root, body } = card('State', { wide: true, className: 'status' });
  return { root, need: ['status'], update() {
    const s = store.get('status');
    if (!s) return fill(body, store.error('status') ? problem(store.error('status')) : empty('Asking…'));
    const [kind, word, next] = STATES[s.state] ?? ['off', s.state, ''];
    const ledger = ledgerHealth(s.ledger, store.now(), s.asset !== null);
    return fill(body, h('div', { class: 'state-line' }, h('span', { class: `state ${kind}` }, word), h('div', {}, h('p', { class: 'explanation' }, s.explanation),
      h('p', { class: 'hint' }, next, ['out_of_funds', 'unpaid'].includes(s.state) ? h('span', {}, ' ', h('a', { href: '#/money' }, 'Add funds'), ' · ', h('a', { href: '#/limits' }, 'Budgets')) : null))),
    h('ul', { class: 'checks' },
      h('li', {}, h('span', {}, 'Tor'), badge(s.tor?.bootstrapped ? 'connected' : 'not connected yet', s.tor?.bootstrapped ? 'good' : 'warn')),
      h('li', {}, h('span', {}, 'Ledger'), badge(ledger[1], ledger[0], ledger[2])),
      h('li', {}, h('span', {}, 'Tunnels'), h('span', { class: 'plain' }, `${integer(s.circuits.paid)} paid, ${integer(s.circuits.unpaid)} unpaid`)),
      h('li', {}, h('span', {}, 'Up'), h('span', { class: 'plain' }, span(store.now() - s.started_at)))));
  } };
}

function figures(app) {
  const { store } = app;
  const { root, body } = card('Balance', { wide: true });
  return { root, need: ['balances', 'status', 'budgets'], update() {
    const b = store.get('balances');
    const s = store.get('status');
    if (!b || !s) return fill(body, store.error('balances') ? problem(store.error('balances')) : empty('Asking…'));
    const carried = sum([s.carried.paid, s.carried.unpaid]);
    return fill(body, tiles(
      tile('Free', figure(b.asset, store.code), b.asset === null ? 'not read from the ledger yet' : 'in the wallet'),
      tile('Locked', figure(b.locked, store.code), 'in escrows; what is not spent comes back'),
      tile('Signed', figure(b.signed, store.code), 'given to guards, not settled yet'),
      tile('Spent today', figure(store.get('budgets')?.spent_day ?? null, store.code), null),
      tile('Carried', size(carried), [percent(ratio(s.carried.paid, carried)), ' of it paid, since the start']),
      tile('Lumens', figure(b.lumens, 'XLM'), 'for the ledger’s fees')));
  } };
}

const BUDGETS = { day: ['Today', 'spent_day'], month: ['This month', 'spent_month'], total: ['In all', 'spent_total'] };

function spendCard(app, wide = false) {
  const { store } = app;
  const { root, body } = card('Spent against budget', { wide, tools: wide ? h('a', { href: '#/limits' }, 'Change') : null });
  return { root, need: ['budgets'], update() {
    const b = store.get('budgets');
    if (!b) return fill(body, store.error('budgets') ? problem(store.error('budgets')) : empty('Asking…'));
    return fill(body, h('ul', { class: 'meters' }, Object.entries(BUDGETS).map(([name, [label, spent]]) => {
      const budget = b[name];
      const share = budget === null ? 0 : ratio(b[spent], budget);
      return h('li', {}, h('div', { class: 'meter-head' }, h('span', {}, label, budget !== null && share >= 1 ? badge('spent', 'bad') : null),
        h('span', { class: 'num' }, amount(b[spent]), h('small', {}, budget === null ? ` ${store.code}, no budget` : ` of ${amount(budget, store.code)}`))),
      budget === null ? null : meter({ label: `${label}: spent against budget`, fraction: share, alarm: share >= 0.8, text: `${amount(b[spent])} of ${amount(budget, store.code)}, ${percent(share)}` }));
    })), h('p', { class: 'hint' }, b.circuit === null ? 'No budget for a single circuit.' : `A single circuit: at most ${amount(b.circuit, store.code)}.`));
  } };
}

function hopsOf(t, code) {
  return h('ol', { class: 'hops' }, t.hops.map((hop, i) => h('li', { class: hop.unpaid ? 'hop-unpaid' : hop.paid_hop ? 'hop-paid' : 'hop-unpaid' },
    h('span', { class: 'hop-name' }, h('b', {}, hop.nickname ?? short(hop.fingerprint, 8, 0)), h('span', { class: 'hint' }, i === 0 ? ' guard' : t.hops.length === 3 && !t.hosted && !t.far_side ? [' middle', ' exit'][i - 1] : ` hop ${i + 1}`)),
    h('span', { class: 'hop-price' }, hop.unpaid ? h('span', { class: 'why' }, `not paid: ${hop.unpaid}`)
      : hop.price_per_64_kib === null ? 'no quote yet' : [h('b', {}, integer(hop.price_per_64_kib)), h('span', { class: 'hint', title: `stroops; ${amount(perGib(hop.price_per_64_kib), code)} per GiB` }, ' / 64 KiB')]),
    h('span', { class: 'hop-paid-sum' }, hop.unpaid ? '' : ['paid ', money(hop.paid)]))));
}

function tunnelsCard(app, few = 0) {
  const { store } = app;
  const { root, body } = card(few ? 'Live circuits' : 'Tunnels', { wide: true, tools: few ? h('a', { href: '#/tunnels' }, 'All') : null,
    note: 'The price of each hop, in stroops per 64 KiB; what each was paid so far.' });
  return { root, need: ['tunnels'], update() {
    const all = store.get('tunnels');
    if (!all) return fill(body, store.error('tunnels') ? problem(store.error('tunnels')) : empty('Asking…'));
    let rows = [...all.records].sort((a, b) => Number(b.open) - Number(a.open) || Number(b.tunnel) - Number(a.tunnel));
    if (few) rows = rows.filter(t => t.open).slice(0, few);
    if (rows.length === 0) return fill(body, empty('No tunnel is open.', 'Point a program at the SOCKS proxy (socks.listen in the configuration), and it appears here.'));
    return fill(body, h('div', { class: 'tunnels' }, rows.map(t => {
      const price = sum(t.hops.filter(x => !x.unpaid).map(x => x.price_per_64_kib));
      return h('article', { class: `tunnel ${t.open ? '' : 'closed'}`, key: t.tunnel, 'aria-label': `Tunnel ${t.tunnel}` },
        h('header', {}, h('h3', {}, `Tunnel ${t.tunnel}`), t.open ? null : badge('closed', 'off'), t.hosted ? badge('onion service here', 'busy') : null,
          t.paid_hops ? badge(`${t.paid_hops} of ${t.hops.length} hops paid`, t.paid_hops === t.hops.length ? 'good' : 'warn') : badge('unpaid', 'off')),
        hopsOf(t, store.code),
        t.far_side ? h('p', { class: 'remark' }, t.far_side) : null,
        h('dl', { class: 'inline' }, [['sent', size(t.sent)], ['received', size(t.received)], ['bought', size(t.bought)], ['spent', money(t.spent, store.code)],
          ['price of all', price === 0n ? '–' : `${integer(price)} / 64 KiB`], ['payments', `${integer(t.payments)}, ${integer(t.requests)} requested${Number(t.refused) ? `, ${integer(t.refused)} refused` : ''}`],
          ['first payment', t.first_payment_ms === null ? 'none yet' : `after ${integer(t.first_payment_ms)} ms`], ['streams', integer(t.streams)]]
          .map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))));
    })));
  } };
}

function guardsCard(app) {
  const { store } = app;
  const { root, body } = card('Guards', { wide: true, note: 'The only relays that you pay yourself; they pay the next ones.' });
  return { root, need: ['peers'], update() {
    const peers = store.get('peers');
    if (!peers) return fill(body, store.error('peers') ? problem(store.error('peers')) : empty('Asking…'));
    if (peers.records.length === 0) return fill(body, empty('No guard is known yet.', 'Arti chooses them when it connects.'));
    return fill(body, table('Guards', [
      { name: 'Guard', cell: p => h('span', { class: 'relay' }, h('b', {}, p.nickname ?? 'unnamed'), ' ', key(p.peer, 'identity')) },
      { name: 'Carried', num: true, cell: p => size(p.carried) },
      { name: 'Signed to it', num: true, cell: p => money(p.signed) },
      { name: 'Settled', num: true, cell: p => money(p.settled_out) },
      { name: 'Kept its word', cell: p => (!p.score ? '–' : p.score.shunned ? badge('shunned', 'bad') : [percent(ratio(p.score.carried, p.score.bought)), Number(p.score.failures) ? `, ${integer(p.score.failures)} failures` : '']) },
      { name: 'Escrow', cell: p => (p.escrow_out ? key(p.escrow_out, 'escrow') : 'none open') },
    ], peers.records, { rowKey: p => p.peer }));
  } };
}

/** A form that shows what is set, and leaves alone what the reader is writing. */
function settings(app, name, title, note, build) {
  const { store } = app;
  const { root, body } = card(title, { note });
  const built = build();
  const place = h('div', {}, empty('Asking…'));
  body.append(place);
  let dirty = false;
  const root2 = form(title, built.fields, 'Save', async () => {
    const answer = await app.api.put(name, built.value());
    dirty = false;
    store.set(name, { ...store.get(name), ...built.value(), ...(answer ?? {}) });
    built.show(store.get(name));
    return 'Saved. It holds from now on.';
  });
  root2.addEventListener('input', () => {
    dirty = true;
  });
  return { root, need: [name], update(changed) {
    const value = store.get(name);
    if (!value) return fill(place, store.error(name) ? problem(store.error(name)) : empty('Asking…'));
    if (root2.parentNode !== place) place.replaceChildren(root2);
    if (!dirty && (changed === name || changed === 'all')) built.show(value);
  } };
}

function budgetsCard(app) {
  const names = { circuit: 'A single circuit', day: 'A day', month: 'A month', total: 'In all' };
  return settings(app, 'budgets', 'Budgets', 'The most that is spent. An empty field is no budget.', () => {
    const fields = Object.fromEntries(Object.entries(names).map(([name, label]) => [name, field(label, h('input', { type: 'text', inputmode: 'decimal', autocomplete: 'off', placeholder: 'no budget' }))]));
    return { fields: Object.values(fields), show: b => {
      for (const [name, f] of Object.entries(fields)) f.control.value = plainUnits(b[name]);
    }, value: () => Object.fromEntries(Object.entries(fields).map(([name, f]) => [name, f.control.value.trim() === '' ? null : read(f, parseUnits)])) };
  });
}

function ceilingsCard(app) {
  return settings(app, 'ceilings', 'Price ceilings', 'In stroops (0.0000001 of the asset) per 64 KiB. A hop that asks more is not paid.', () => {
    const hop = field('For one hop', h('input', { type: 'text', inputmode: 'numeric', autocomplete: 'off' }));
    const tunnel = field('For all hops of a tunnel, fees included', h('input', { type: 'text', inputmode: 'numeric', autocomplete: 'off', placeholder: 'no ceiling' }));
    const pay = field('Pay', h('select', {}, h('option', { value: 'when-it-helps' }, 'when it helps'), h('option', { value: 'always' }, 'always'), h('option', { value: 'never' }, 'never')),
      'When it helps: now and then a payment is withheld to see whether anything slows.');
    const paths = field('Paths', h('select', {}, h('option', { value: 'any' }, 'any: as Arti chooses them'), h('option', { value: 'prefer' }, 'prefer those whose hops can all be paid'), h('option', { value: 'only' }, 'only those whose hops can all be paid')));
    return { fields: [hop, tunnel, pay, paths], show: c => {
      hop.control.value = String(c.price_per_64_kib);
      tunnel.control.value = c.tunnel_price_per_64_kib === null ? '' : String(c.tunnel_price_per_64_kib);
      pay.control.value = c.pay;
      paths.control.value = c.paths;
    }, value: () => ({ price_per_64_kib: read(hop, parseInteger), tunnel_price_per_64_kib: tunnel.control.value.trim() === '' ? null : read(tunnel, parseInteger),
      pay: pay.control.value, paths: paths.control.value }) };
  });
}

export function userViews(app) {
  const shared = app.shared;
  if (app.store.get('status').asset === null) {
    return [
      { name: 'overview', title: 'Overview', cards: () => [stateCard(app), shared.warningsCard(app), historyCard(app, ['carried']), tunnelsCard(app, 3)] },
      { name: 'tunnels', title: 'Tunnels', cards: () => [tunnelsCard(app)] },
    ];
  }
  return [
    { name: 'overview', title: 'Overview', cards: () => [stateCard(app), shared.warningsCard(app), figures(app), spendCard(app, true), historyCard(app, ['requests', 'carried', 'spent']), tunnelsCard(app, 3)] },
    { name: 'tunnels', title: 'Tunnels', cards: () => [tunnelsCard(app), guardsCard(app)] },
    { name: 'spending', title: 'Spending', cards: () => [shared.paymentsCard(app), shared.requestsCard(app)] },
    { name: 'limits', title: 'Budgets', cards: () => [spendCard(app), budgetsCard(app), ceilingsCard(app)] },
    { name: 'escrows', title: 'Escrows', cards: () => [shared.timelineCard(app), shared.escrowsCard(app)] },
    { name: 'money', title: 'Money', cards: () => [shared.fundingCard(app), shared.balancesCard(app), shared.invoicesCard(app), shared.transfersCard(app), shared.accountsCard(app)] },
  ];
}
