// Money on the ledger: balances, accounts, invoices, transfers, and how to fund a client.
import { badge, card, confirm, copy, empty, facts, field, form, key, money, problem, read, table, time } from './common.js';
import { fill, h } from './dom.js';
import { amount, parseUnits, short, sum, units } from './format.js';

export function balancesCard(app) {
  const { store } = app;
  const { root, body } = card('Balances');
  return { root, need: ['balances'], update() {
    const b = store.get('balances');
    if (!b) return fill(body, store.error('balances') ? problem(store.error('balances')) : empty('Asking…'));
    const code = store.code;
    const relay = store.get('status')?.role === 'relay';
    return fill(body, facts(
      ['On the ledger', money(b.asset, code), 'The accounts of the wallet, added up'],
      ['Lumens', money(b.lumens, 'XLM'), 'For fees and reserves'],
      ['Locked in own escrows', money(b.locked, code)],
      ['Signed away, not settled', money(b.signed, code)],
      relay && ['Claims held, not settled', money(b.unsettled, code)],
      relay && ['Owed to us by trust', money(b.owed_to_us, code)],
      relay && ['Owed by us by trust', money(b.owed, code)]),
    h('p', { class: 'hint' }, b.read_at === null ? 'Not read from the ledger yet.' : ['Read from the ledger ', time(b.read_at, store.now(), 'relative'), '.']));
  } };
}

/** A column's name with the unit of its amounts. */
export const inCode = (name, store) => (store.code ? `${name}, ${store.code}` : name);

const PURPOSE = { wallet: 'wallet', payee: 'payee: receives what is earned', payer: 'capital: escrows are funded from it', trust: 'trust: pays what is owed', one_time: 'one-time' };

export function accountsCard(app) {
  const { store } = app;
  const { root, body } = card('Accounts', { className: 'two' });
  return { root, need: ['balances'], update() {
    const list = store.get('balances')?.accounts;
    if (!list) return fill(body, store.error('balances') ? problem(store.error('balances')) : empty('Asking…'));
    if (list.length === 0) return fill(body, empty('There is no account.', 'A relay or client without [payments] has none.'));
    return fill(body, table('Accounts', [
      { name: 'Account', cell: a => key(a.account, 'account', 8, 6) },
      { name: 'Purpose', cell: a => PURPOSE[a.purpose] ?? a.purpose },
      { name: store.code || 'Asset', num: true, cell: a => money(a.asset) },
      { name: 'Lumens', num: true, cell: a => money(a.lumens) },
    ], list, { rowKey: a => a.account }));
  } };
}

/** The server's SVG as an image: it is never parsed as part of this page. */
function qr(invoice) {
  return h('img', { class: 'qr', alt: `QR code of the payment request for ${units(invoice.amount)}`, width: 180, height: 180, src: `data:image/svg+xml,${encodeURIComponent(invoice.qr_svg)}` });
}

const INVOICE = { open: ['open', 'busy'], paid: ['paid', 'good'], underpaid: ['underpaid', 'warn'] };

function invoiceBox(app, invoice, onCheck) {
  const { store } = app;
  const said = h('p', { class: 'said', role: 'status' });
  const check = h('button', { type: 'button', onclick: async () => {
    check.disabled = true;
    said.className = 'said';
    said.textContent = '';
    try {
      const now = await app.api.post(`invoices/${encodeURIComponent(invoice.id)}/check`, {});
      onCheck(now);
    } catch (error) {
      said.className = 'said problem';
      said.textContent = error.message;
      check.disabled = false;
    }
  } }, 'Look on the ledger');
  return h('div', { class: 'invoice' }, qr(invoice), h('div', {}, facts(
    ['State', [badge(...(INVOICE[invoice.state] ?? [invoice.state, 'off'])), Number(invoice.received) ? [' ', money(invoice.received, store.code), ' received'] : null]],
    ['Amount', money(invoice.amount, store.code)],
    ['To', key(invoice.account, 'account', 8, 6)],
    ['Memo', h('code', {}, invoice.memo)],
    invoice.message && ['Message', invoice.message],
    invoice.transactions.length > 0 && ['Transactions', invoice.transactions.map(t => [key(t, 'transaction'), ' '])]),
  h('p', { class: 'buttons' }, check, h('button', { type: 'button', onclick: e => copy(invoice.uri, e.currentTarget) }, 'Copy the request'),
    h('a', { class: 'button', href: /^web\+stellar:/.test(invoice.uri) ? invoice.uri : null }, 'Open in a wallet')), said));
}

export function invoicesCard(app) {
  const { store } = app;
  const { root, body } = card('Payment requests to others', { wide: true, note: 'A SEP-7 request with a memo of its own: whoever pays it is recognised on the ledger.' });
  const value = field('Amount', h('input', { type: 'text', inputmode: 'decimal', autocomplete: 'off', required: true }));
  const message = field('Message', h('input', { type: 'text', autocomplete: 'off', maxlength: '300' }), 'Shown to whoever pays. May be empty.');
  const chosen = h('div', {});
  const list = h('div', {});
  let current = null;
  const show = invoice => {
    current = invoice;
    chosen.replaceChildren(...(invoice ? [invoiceBox(app, invoice, now => {
      show(now);
      store.touch('invoices');
    })] : []));
  };
  const make = form('New payment request', [value, message], 'Create', async () => {
    const amountOf = read(value, parseUnits);
    if (amountOf === 0n) {
      const error = new RangeError('The amount is zero.');
      error.field = value;
      throw error;
    }
    show(await app.api.postOnce('invoices', { amount: amountOf, message: message.control.value.trim() || null }));
    value.control.value = '';
    message.control.value = '';
    store.load('invoices');
    return 'Created.';
  }, { className: 'row' });
  body.append(make, chosen, list);
  return { root, need: ['invoices'], update() {
    const all = store.get('invoices');
    if (!all) return fill(list, store.error('invoices') ? problem(store.error('invoices')) : empty('Asking…'));
    if (all.records.length === 0) return fill(list, empty('There is no payment request yet.', 'Create one above; it comes with a QR code.'));
    return fill(list, table('Payment requests to others', [
      { name: 'Created', cell: i => time(i.created_at, store.now()) },
      { name: inCode('Amount', store), num: true, cell: i => money(i.amount) },
      { name: 'Received', num: true, cell: i => money(i.received) },
      { name: 'Memo', cell: i => h('code', { title: i.memo }, short(i.memo, 8, 4)) },
      { name: 'Message', cell: i => i.message ?? '–' },
      { name: 'State', cell: i => badge(...(INVOICE[i.state] ?? [i.state, 'off'])) },
      { name: 'Show', cell: i => h('button', { type: 'button', class: 'small', 'aria-label': `Show the request of ${units(i.amount)}`, onclick: () => {
        show(i);
        chosen.scrollIntoView({ block: 'nearest' });
      } }, i.id === current?.id ? 'Shown' : 'Show') },
    ], all.records, { rowKey: i => i.id }), all.next ? h('p', { class: 'hint' }, 'The 50 newest are shown.') : null);
  } };
}

const TRANSFER = { pending: ['pending', 'busy'], confirmed: ['confirmed', 'good'], failed: ['failed', 'bad'], unknown: ['unknown', 'warn'] };

export function transfersCard(app) {
  const { store } = app;
  const { root, body } = card('Transfers', { wide: true, note: 'Money from the wallet to somebody else: for services beyond the circuit, or to take it out.' });
  const to = field('To', h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', required: true }), 'An account (G…) or a request (web+stellar:pay?…).');
  const value = field('Amount', h('input', { type: 'text', inputmode: 'decimal', autocomplete: 'off' }), 'Not with a request: it names its own.');
  const memo = field('Memo', h('input', { type: 'text', autocomplete: 'off', maxlength: '28' }), 'May be empty.');
  const list = h('div', {});
  const fail = (f, text) => Object.assign(new RangeError(text), { field: f });
  const make = form('New transfer', [to, value, memo], 'Send…', async () => {
    const target = to.control.value.trim();
    const request = target.startsWith('web+stellar:');
    if (!request && !/^G[A-Z2-7]{55}$/.test(target)) throw fail(to, 'This is neither an account nor a request.');
    if (request && saysTwice(target)) throw fail(to, 'This request names something twice: two programs could read it differently.');
    const sum1 = request ? null : read(value, parseUnits);
    if (sum1 === 0n) throw fail(value, 'The amount is zero.');
    const asked = request ? [`The request says: ${describeRequest(target)}`] : [`${amount(sum1, store.code)} to ${target}`];
    if (!await confirm('Send this money?', [...asked, 'A transfer cannot be taken back.'], 'Send')) return '';
    const transfer = await app.api.postOnce('transfers', request ? { uri: target } : { destination: target, amount: sum1, memo: memo.control.value.trim() || null });
    for (const f of [to, value, memo]) f.control.value = '';
    store.load('transfers');
    return `Handed in: ${transfer.state}.`;
  }, { className: 'row' });
  body.append(make, list);
  return { root, need: ['transfers'], update() {
    const all = store.get('transfers');
    if (!all) return fill(list, store.error('transfers') ? problem(store.error('transfers')) : empty('Asking…'));
    if (all.records.length === 0) return fill(list, empty('Nothing was sent yet.'));
    if (all.records.some(t => t.state === 'pending' || t.state === 'unknown')) store.touch('transfers');
    return fill(list, table('Transfers', [
      { name: 'Time', cell: t => time(t.created_at, store.now()) },
      { name: 'To', cell: t => key(t.destination, 'account') },
      { name: inCode('Amount', store), num: true, cell: t => money(t.amount) },
      { name: 'Memo', cell: t => t.memo ?? '–' },
      { name: 'Transaction', cell: t => key(t.transaction, 'transaction') },
      { name: 'State', cell: t => h('span', {}, badge(...(TRANSFER[t.state] ?? [t.state, 'off'])), t.detail ? ` ${t.detail}` : '') },
    ], all.records, { rowKey: t => t.id }), all.next ? h('p', { class: 'hint' }, 'The 50 newest are shown.') : null);
  } };
}

/** Whoever names an amount twice hopes that the reader sees the one and the wallet pays the other. */
function saysTwice(uri) {
  const names = [...new URLSearchParams(uri.slice(uri.indexOf('?') + 1)).keys()];
  return new Set(names).size < names.length;
}

/** What a SEP-7 request asks for, so that nobody sends what they did not read. */
function describeRequest(uri) {
  const params = new URLSearchParams(uri.slice(uri.indexOf('?') + 1));
  return [`${params.get('amount') ?? 'an amount that it leaves open'} ${params.get('asset_code') ?? 'XLM'} to ${params.get('destination') ?? 'nobody'}`,
    params.get('memo') ? `memo ${params.get('memo')}` : '', params.get('msg') ? `“${params.get('msg')}”` : ''].filter(Boolean).join(', ');
}

export function fundingCard(app) {
  const { store } = app;
  const { root, body } = card('Add funds', { className: 'two' });
  const value = field('Amount', h('input', { type: 'text', inputmode: 'decimal', autocomplete: 'off', value: '10' }));
  const shown = h('div', {});
  const where = h('div', {});
  const show = invoice => shown.replaceChildren(invoiceBox(app, invoice, now => {
    show(now);
    store.load('balances');
  }));
  const make = form('Add funds', [value], 'Show the QR code', async () => {
    show(await app.api.postOnce('invoices', { amount: read(value, parseUnits), message: 'Funds for the Obol client' }));
    store.load('invoices');
    return '';
  }, { className: 'row last' });
  body.append(where, make, shown);
  return { root, need: ['status', 'balances'], update() {
    const s = store.get('status');
    const b = store.get('balances');
    root.hidden = s !== null && s.account === null;
    if (!s) return;
    fill(where, h('p', {}, 'Send ', h('b', {}, s.asset?.code ?? 'the asset'), ' to the wallet’s account, and some lumens (XLM) for the ledger’s fees.'),
      facts(['Account', h('span', { class: 'whole' }, key(s.account, 'account', 60, 0))], s.asset && ['Asset', [s.asset.code, ' of ', key(s.asset.issuer, 'issuer')]],
        b && ['There now', [money(b.asset, store.code), ' and ', money(b.lumens, 'XLM')]],
        b && sum([b.asset ?? 0]) === 0n && ['Next', 'The client pays by itself once both have arrived.']));
  } };
}
