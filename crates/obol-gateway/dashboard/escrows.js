// Escrows: their time line, their table, and the flush.
import { Timeline } from './charts.js';
import { badge, card, confirm, empty, key, money, pageButtons, problem, some, table, time } from './common.js';
import { fill, h } from './dom.js';
import { amount, count, percent, ratio, relative, short, sum } from './format.js';
import { Pager, query } from './paging.js';

const KIND = { opening: 'busy', open: 'good', closing: 'warn', flushing: 'warn', settled: 'done', ended: 'off', refunded: 'off', abandoned: 'bad' };
const OVER = new Set(['settled', 'ended', 'refunded', 'abandoned']);
const LANES = 24;

/** Those that are not over are asked for by expiry, from a little before now on: a flush may still be under way then. The rest comes in pages. */
function live(store) {
  const hour = Math.floor(store.now() / 3600) * 3600;
  store.path('escrows', `escrows${query({ limit: 200, order: 'asc', from: hour - 6 * 3600 })}`);
  return store.get('escrows');
}

function name(store, e) {
  if (e.peer === null) return 'a client';
  const peer = store.get('peers')?.records.find(p => p.peer === e.peer);
  return peer?.nickname ?? short(e.peer, 6, 4);
}

export function timelineCard(app) {
  const { store } = app;
  const relay = store.get('status')?.role === 'relay';
  live(store);
  const chart = new Timeline({ title: 'Escrows from opening to expiry', empty: 'No escrow is open. Escrows appear here when somebody opens one.' });
  const more = h('p', { class: 'hint' });
  const { root, body } = card('Time line', { wide: true, note: `The soonest to expire first. The lower stripe is the share that is signed away${relay ? '; hatched is the margin before expiry, in which nothing more is accepted' : ''}.` });
  body.append(chart.root, more);
  return { root, need: ['escrows', 'peers', ...(relay ? ['tariff'] : [])], update() {
    const now = store.now();
    const margin = Number(store.get('tariff')?.margin ?? 0);
    const all = (live(store)?.records ?? []).filter(e => !OVER.has(e.state)).sort((a, b) => Number(a.expiry) - Number(b.expiry));
    const rows = all.slice(0, LANES).map(e => {
      const who = e.direction === 'in' ? `from ${name(store, e)}` : `to ${name(store, e)}`;
      return { label: short(who, 16, 0), brief: `${e.direction === 'in' ? '←' : '→'} ${e.peer === null ? 'client' : short(name(store, e), 6, 0)}`, name: e.escrow, from: Number(e.opened_at ?? Math.min(now, Number(e.expiry))), to: Number(e.expiry), margin, className: `s-${e.state}`,
        filled: ratio(e.cumulative, e.deposit), lines: [[`${short(e.escrow)} ${who}`], ['state', e.state], ['signed', `${amount(e.cumulative, store.code)}, ${percent(ratio(e.cumulative, e.deposit))}`],
          ['deposit', amount(e.deposit, store.code)], ['expiry', relative(e.expiry, now)]] };
    });
    const states = [...new Set(all.slice(0, LANES).map(e => e.state))];
    chart.update(rows, now, states.map(s => [s, `s-${s}`]));
    more.textContent = all.length > LANES ? `${LANES} of ${count(all.length, 'escrow')} that are not over.` : '';
  } };
}

export function escrowsCard(app) {
  const { store } = app;
  const relay = store.get('status')?.role === 'relay';
  let direction = 'all';
  let state = 'live';
  const all = { all: false };
  const said = h('p', { class: 'said', role: 'status' });
  const pager = new Pager(page => app.api.get(`escrows${query({ ...page, order: 'desc', direction: direction === 'all' ? null : direction, state: state === 'all' ? null : state })}`), 50);
  let pageError = null;
  const turn = async promise => {
    pageError = null;
    await promise.catch(error => {
      pageError = error;
    });
    view.update();
  };
  const select = (label, options, pick) => h('select', { 'aria-label': label, onchange: e => {
    pick(e.target.value);
    pager.reset();
    if (state === 'live') view.update();
    else turn(pager.load());
  } }, options.map(([value, text]) => h('option', { value }, text)));
  const tools = h('div', { class: 'tools' },
    select('Direction', [['all', 'Both directions'], ['in', 'Pay us'], ['out', 'We pay']], v => {
      direction = v;
    }),
    select('State', [['live', 'Not over'], ['all', 'Every state'], ...Object.keys(KIND).map(s => [s, s])], v => {
      state = v;
    }),
    relay ? h('button', { type: 'button', onclick: () => flush(null) }, 'Flush now…') : null);
  const { root, body } = card('Escrows', { wide: true, tools });
  const place = h('div', {});
  live(store);
  body.append(said, place);

  async function flush(escrow) {
    const held = (store.get('escrows')?.records ?? []).filter(e => e.direction === 'in' && ['open', 'closing'].includes(e.state) && BigInt(e.cumulative) > 0n && (!escrow || e.escrow === escrow));
    const text = [`${escrow ? `The claim on ${short(escrow)}` : `The claims on ${count(held.length, 'escrow')}`}, ${amount(sum(held.map(e => e.cumulative)), store.code)}, will be settled on the ledger now.`,
      'A flushed escrow takes no more payments: who pays by it needs another one. Each flush costs a fee in lumens, and the ledger shows for ever when it was.'];
    if (!await confirm(escrow ? 'Flush this escrow?' : 'Flush all escrows?', text, 'Flush')) return;
    try {
      const answer = await app.api.post('flush', { escrow });
      said.className = 'said';
      said.textContent = answer.flushing.length === 0 ? 'There is nothing to flush.' : `Flushing ${count(answer.flushing.length, 'escrow')}.`;
      store.touch('escrows');
    } catch (error) {
      said.className = 'said problem';
      said.textContent = error.message;
    }
  }

  const view = { root, need: ['escrows', 'peers'], update() {
    const newest = live(store);
    const paged = state !== 'live';
    if (paged && pageError) return fill(place, problem(pageError));
    const list = paged ? { records: pager.records, next: null } : newest;
    if (!list) return fill(place, store.error('escrows') ? problem(store.error('escrows')) : empty('Asking…'));
    const now = store.now();
    const rows = paged ? list.records : list.records.filter(e => (direction === 'all' || e.direction === direction) && !OVER.has(e.state)).sort((a, b) => Number(a.expiry) - Number(b.expiry));
    if (rows.length === 0) {
      return fill(place, direction === 'all' && !paged
        ? empty('No escrow is open.', relay ? 'Clients and relays open them to a relay that is in the consensus and quotes a price.' : 'One is opened to your guard once the wallet is funded.')
        : empty('No escrow is in this selection.', 'Choose another state or direction.'));
    }
    const part = paged ? { rows, more: pageButtons(pager, turn) } : some(rows, all, () => view.update());
    return fill(place, table('Escrows', [
      { name: 'Escrow', cell: e => key(e.escrow, 'escrow') },
      { name: 'Between', cell: e => h('span', {}, e.direction === 'in' ? 'from ' : 'to ', h('b', {}, name(store, e))) },
      { name: 'State', cell: e => badge(e.state, KIND[e.state] ?? 'off') },
      { name: 'Deposit', num: true, cell: e => money(e.deposit) },
      { name: 'Signed', num: true, cell: e => money(e.cumulative), bar: e => ratio(e.cumulative, e.deposit), barClass: 'c-earned', title: 'The newest claim: what the payee can have' },
      { name: 'Allocated', num: true, cell: e => money(e.allocated), title: 'How much of it is assigned to circuits' },
      { name: 'Settled', num: true, cell: e => money(e.settled) },
      { name: 'Claim', num: true, cell: e => String(e.k), title: 'How many claims were signed' },
      { name: 'Expiry', cell: e => time(e.expiry, now, 'relative') },
      relay ? { name: 'Flush', cell: e => (e.direction === 'in' && e.state === 'open' && BigInt(e.cumulative) > 0n ? h('button', { type: 'button', class: 'small', 'aria-label': `Flush ${short(e.escrow)}`, onclick: () => flush(e.escrow) }, 'Flush…') : '') } : null,
    ].filter(Boolean), part.rows, { rowKey: e => e.escrow }), part.more, list.next ? h('p', { class: 'hint' }, 'The 200 soonest to expire are shown.') : null);
  } };
  return view;
}

