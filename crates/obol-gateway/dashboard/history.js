// Charts over time, for both roles: one range, one neighbour or all, several charts.
import { BinChart } from './charts.js';
import { card, choice, empty, problem } from './common.js';
import { fill, h } from './dom.js';
import { amount, bytes, integer, short, sum, units } from './format.js';
import { query } from './paging.js';
import { RANGES, rangeQuery } from './scale.js';

const ofBytes = (name, className, field, kind = 'stack') => ({ name, className, kind, value: b => Number(b[field] ?? 0), text: b => bytes(b[field] ?? 0),
  total: bins => bytes(sum(bins.map(b => b[field]))) });
const ofCount = (name, className, field, kind = 'bar') => ({ name, className, kind, value: b => Number(b[field] ?? 0), text: b => integer(b[field] ?? 0),
  total: bins => integer(sum(bins.map(b => b[field]))) });
const ofMoney = (code, name, className, field, kind = 'bar') => ({ name, className, kind, value: b => Number(b[field] ?? 0),
  text: b => amount(b[field] ?? 0, code()), total: kind === 'step' ? null : bins => amount(sum(bins.map(b => b[field])), code()) });

export const charts = {
  carried: () => ({ title: 'Carried', unit: 'bytes', axisText: v => bytes(v).replace(/\.0+(?=\D)/, ''), empty: 'Nothing was carried in this time.',
    series: [ofBytes('paid', 'c-paid', 'carried_paid'), ofBytes('unpaid', 'c-unpaid', 'carried_unpaid')] }),
  earned: code => ({ title: 'Earned and settled', unit: 'amount', axisText: moneyAxis, empty: 'Nothing was earned or settled in this time.',
    series: [ofMoney(code, 'earned', 'c-earned', 'earned'), ofMoney(code, 'settled to us', 'c-settled', 'settled_in')] }),
  owed: code => ({ title: 'Owed to us, not settled', unit: 'amount', axisText: moneyAxis, empty: 'Nothing was owed in this time.', needs: 'owed',
    series: [ofMoney(code, 'owed at the end of each time', 'c-owed', 'owed', 'step')] }),
  paidOn: code => ({ title: 'Passed on to other relays', unit: 'amount', axisText: moneyAxis, empty: 'Nothing was passed on in this time.',
    series: [ofMoney(code, 'forwarded', 'c-forwarded', 'forwarded'), ofMoney(code, 'settled by us', 'c-settled', 'settled_out')] }),
  spent: code => ({ title: 'Spent', unit: 'amount', axisText: moneyAxis, empty: 'Nothing was spent in this time.',
    series: [ofMoney(code, 'signed to guards', 'c-earned', 'signed'), ofMoney(code, 'settled on the ledger', 'c-settled', 'settled_out')] }),
  requests: () => ({ title: 'Payment requests and payments', unit: 'count', axisText: integer, empty: 'There was no payment request in this time.',
    series: [ofCount('payment requests', 'c-requests', 'requests'), ofCount('payments done', 'c-paid', 'payments'), ofCount('refused', 'c-bad', 'refusals')] }),
};

/** Axis labels in units of the asset; tiny ones in stroops would be longer. */
function moneyAxis(stroops) {
  return stroops > 0 && stroops < 1000 ? `${integer(Math.round(stroops))} str` : units(BigInt(Math.round(stroops)));
}

/** The card with range and neighbour to choose, and these charts. */
export function historyCard(app, names, { peers = false } = {}) {
  const { store } = app;
  app.range ??= 'day';
  const list = names.map(name => new BinChart(charts[name](() => store.code)));
  const places = list.map(chart => h('div', {}, h('h3', {}, chart.title), chart.root));
  const select = h('select', { 'aria-label': 'Neighbour', onchange: e => {
    app.peer = e.target.value;
    ask(true);
  } });
  const tools = h('div', { class: 'tools' }, peers ? select : null,
    choice('Range', Object.fromEntries(Object.entries(RANGES).map(([k, r]) => [k, r.title])), app.range, name => {
      app.range = name;
      ask(true);
    }));
  const remark = h('div', {});
  const { root, body } = card('History', { wide: true, tools });
  const grid = h('div', { class: 'charts' }, places);
  body.append(remark, grid);

  function ask(load) {
    const { bin, from, to } = rangeQuery(app.range, store.now());
    store.path('history', `history${query({ from, to, bin, peer: app.peer })}`);
    if (load) store.load('history');
  }

  function update(name) {
    if (name === 'history' || name === 'status' || name === 'all') {
      const history = store.get('history');
      fill(remark, store.error('history') ? problem(store.error('history')) : history ? null : empty('Asking…'));
      grid.hidden = !history;
      if (history) list.forEach((chart, i) => {
        // A program that does not tell a figure gets no empty chart of it.
        places[i].hidden = Boolean(chart.needs) && !history.bins.some(b => b[chart.needs] !== undefined && b[chart.needs] !== null);
        chart.update(history.bins, history.bin, store.now());
      });
    }
    if (peers && (name === 'peers' || name === 'all')) {
      const records = store.get('peers')?.records ?? [];
      fill(select, h('option', { value: '' }, 'All neighbours'), records.map(p => h('option', { value: p.peer }, p.nickname ?? short(p.peer))));
      select.value = app.peer ?? '';
    }
    if (name === 'tick') ask(false);
  }
  ask(false);
  return { root, update, need: ['history', ...(peers ? ['peers'] : [])], ask };
}
