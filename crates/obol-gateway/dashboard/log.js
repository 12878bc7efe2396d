// Logs that come in pages: payments, payment requests; and the warnings of this visit.
import { badge, card, empty, money, pageButtons, problem, size, table, time } from './common.js';
import { fill, h } from './dom.js';
import { integer, units } from './format.js';
import { inCode } from './money.js';
import { Pager, query } from './paging.js';

const OUTCOME = { complete: ['done', 'good'], paid: ['paid', 'good'], waiting: ['waiting', 'busy'], refused: ['refused', 'bad'], withheld: ['withheld', 'off'] };
const outcome = (name, title) => badge(...(OUTCOME[name] ?? [name, 'off']), title);

/** A card with a paged list. The first page follows live events; the others stay where they are. */
function pagedCard(app, { title, path, note, columns, nothing, next, filter = null }) {
  const { store } = app;
  const params = {};
  const pager = new Pager(page => app.api.get(`${path}${query({ ...page, ...params })}`), innerWidth < 700 ? 20 : 50);
  let error = null;
  let loaded = false;
  const place = h('div', {}, empty('Asking…'));
  const pages = h('div', {});
  const { root, body } = card(title, { wide: true, note, tools: filter?.(p => {
    Object.assign(params, p);
    pager.reset();
    run(pager.load());
  }) });
  body.append(place, pages);

  async function run(promise) {
    try {
      await promise;
      error = null;
      loaded = true;
    } catch (e) {
      error = e;
    }
    draw();
  }

  function draw() {
    const now = store.now();
    fill(place, error ? problem(error) : null, !loaded ? null : pager.records.length === 0 ? empty(params.from || params.to ? 'Nothing in this time.' : nothing, params.from ? 'Choose another one.' : next)
      : table(title, columns(store, now), pager.records, { rowKey: r => r.id }));
    fill(pages, pageButtons(pager, run));
  }

  return { root, need: [], start: () => run(pager.load()), update(name) {
    if (name === 'payments' && !pager.hasPrevious) run(pager.load());
    if (name === 'tick' && loaded) draw();
  } };
}

/** Fields for a span of time: dates in local time. */
function spanFilter(app) {
  return apply => {
    const option = { '': 'Any time', 3600: 'Last hour', 86400: 'Last 24 hours', 604800: 'Last 7 days', 2678400: 'Last 31 days' };
    return h('select', { 'aria-label': 'Time', onchange: e => apply({ from: e.target.value ? app.store.now() - Number(e.target.value) : null }) },
      Object.entries(option).sort((a, b) => Number(a[0]) - Number(b[0])).map(([value, text]) => h('option', { value }, text)));
  };
}

export function paymentsCard(app) {
  const relay = app.store.get('status')?.role === 'relay';
  return pagedCard(app, { title: relay ? 'Payments' : 'Spending log', path: 'payments', filter: spanFilter(app),
    note: relay ? 'What was earned here and passed on, payment by payment, since the start.' : 'Every payment since the start, with what each paid hop got. The difference to the total is fees.',
    nothing: relay ? 'Nobody has paid yet.' : 'Nothing was spent yet.',
    next: relay ? 'Payments come with circuits of paying clients.' : 'Payments follow once the wallet is funded and an escrow to the guard is open.',
    columns: (store, now) => [
      { name: 'Time', cell: p => time(p.at, now) },
      { name: relay ? 'Circuit' : 'Tunnel', num: true, cell: p => String(p.circuit) },
      { name: 'Payment', num: true, cell: p => String(p.n), title: 'Its number on its circuit' },
      { name: 'Bought', num: true, cell: p => size(p.bytes) },
      relay ? { name: 'Earned', num: true, cell: p => money(p.earned) }
        : { name: 'By hop', num: true, cell: p => (p.amounts === null ? '–' : h('span', { title: 'units of the asset, guard first' }, p.amounts.map(units).join(' · '))) },
      relay ? { name: 'Passed on', num: true, cell: p => money(p.forwarded) } : null,
      { name: inCode('Total', store), num: true, cell: p => money(p.total) },
      relay ? null : { name: 'Took', num: true, cell: p => (p.millis === null ? '–' : `${integer(p.millis)} ms`) },
      { name: 'Outcome', cell: p => h('span', {}, outcome(p.outcome), p.code ? ` ${p.code}` : '') },
    ].filter(Boolean) });
}

export function requestsCard(app) {
  return pagedCard(app, { title: 'Payment requests', path: 'payment-requests', filter: spanFilter(app),
    note: '“This circuit has used so much: buy the next step.”', nothing: 'There was no payment request yet.', next: 'The first one comes when a circuit’s credit runs low.',
    columns: (store, now) => [
      { name: 'Time', cell: r => time(r.at, now) },
      { name: 'Circuit', num: true, cell: r => String(r.circuit) },
      { name: 'Metered', num: true, cell: r => size(r.metered) },
      { name: 'Outcome', cell: r => outcome(r.outcome, r.outcome === 'withheld' ? 'Not paid on purpose, to see whether paying helps' : null) },
      { name: 'Payment', num: true, cell: r => (r.payment === null ? '–' : String(r.payment)) },
    ] });
}

export function warningsCard(app) {
  const { store } = app;
  const { root, body } = card('Warnings', { wide: true });
  return { root, need: [], update() {
    root.hidden = store.warnings.length === 0;
    fill(body, h('ul', { class: 'warnings' }, store.warnings.map(w => h('li', {}, time(w.at, store.now()), ' ', w.text))));
  } };
}
